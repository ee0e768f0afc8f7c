-- Where the line has placed users, by the newest of its plans that has them: they stay there, whatever becomes of them.
CREATE TEMP TABLE settled AS
SELECT u.user_id, u.home, u.backup, u.placement_rule, u.wave, a.user_id IS NOT NULL AS is_away
FROM ($users) AS u
LEFT JOIN read_parquet($away, hive_partitioning = false) AS a ON u.user_id = a.user_id
WHERE u.home IS NOT NULL
