-- The copies of one file of the plan, with their places: users by turn, objects by target key, home before backup.
-- `twice`: the object before it has the same source store and target key, that is, an inventory lists a key twice.
CREATE OR REPLACE TEMP TABLE file_copies AS
SELECT
    p.batch,
    CAST(row_number() OVER place - 1 AS INTEGER) AS ordinal,
    m.user_id,
    p.origin AS store,
    p.key,
    p.version_id,
    p.etag,
    p.size,
    p.last_modified,
    r.category,
    r.name AS rule,
    p.flag,
    t.role AS target_role,
    t.store AS target_store,
    p.target_key,
    p.storage_class,
    p.encryption,
    p.lock,
    coalesce(
        t.role = 'home'
        AND p.target_key = lag(p.target_key) OVER place
        AND p.source = lag(p.source) OVER place
        AND p.turn = lag(p.turn) OVER place,
        FALSE
    ) AS twice
FROM read_parquet($part) AS p
JOIN movers AS m ON p.turn = m.turn
JOIN layout_rules AS r ON p.rule = r.number
JOIN routes AS t ON p.source = t.source AND ((t.role = 'home' AND t.site = m.home) OR (t.role = 'backup' AND t.site = m.backup))
WINDOW place AS (PARTITION BY p.batch ORDER BY p.turn, p.target_key, p.source, p.key, t.rank)
