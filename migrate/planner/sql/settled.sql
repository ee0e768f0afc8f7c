-- Where the line has placed users, by the newest of its plans that has them: they stay there, whatever becomes of them.
CREATE TEMP TABLE settled AS
SELECT user_id, home, backup, placement_rule, wave FROM ($users) WHERE home IS NOT NULL
