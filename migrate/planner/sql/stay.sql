-- Whom the line has placed stays there.
INSERT INTO placed BY NAME
SELECT t.turn, t.user_id, t.country, t.objects, t.bytes, s.placement_rule, s.home, s.backup, FALSE AS wants_backup
FROM tally AS t
JOIN settled AS s ON t.user_id = s.user_id
