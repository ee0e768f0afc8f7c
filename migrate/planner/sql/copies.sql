-- The copies of one file of the plan: of each object the home's, then the backup's, numbered within the batch.
CREATE OR REPLACE TEMP VIEW file_copies AS
WITH firsts AS (
    SELECT rowid AS place, sum(fold) OVER (PARTITION BY batch ORDER BY rowid) - fold AS first_ordinal FROM file_objects
)
SELECT
    o.batch,
    CAST(f.first_ordinal + t.rank AS INTEGER) AS ordinal,
    o.user_id,
    o.origin AS store,
    o.key,
    o.version_id,
    o.etag,
    o.size,
    o.last_modified,
    o.category,
    o.rule_name AS rule,
    o.flag,
    t.role AS target_role,
    t.store AS target_store,
    o.target_key
FROM file_objects AS o
JOIN firsts AS f ON o.rowid = f.place
JOIN routes AS t ON o.source = t.source AND ((t.role = 'home' AND t.site = o.home) OR (t.role = 'backup' AND t.site = o.backup))
