-- The objects of one file of the plan in their order: by batch, users by turn, objects by target key. The row id is the place.
CREATE OR REPLACE TEMP TABLE file_objects AS
SELECT
    p.*,
    m.user_id,
    m.home,
    m.backup,
    m.fold,
    r.category,
    r.name AS rule_name
FROM read_parquet($part, hive_partitioning = false) AS p
JOIN movers AS m ON p.turn = m.turn
JOIN layout_rules AS r ON p.rule = r.number
ORDER BY p.batch, p.turn, p.target_key, p.source, p.key
