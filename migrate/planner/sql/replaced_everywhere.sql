-- The same of what the line has copied to every site: by source, key and target store.
CREATE TEMP TABLE replaced_everywhere AS
WITH copies AS (
    SELECT
        l.source,
        l.key,
        l.plan,
        l.batch,
        unnest(
            [
                {'ordinal': l.ordinal, 'store': l.home_store, 'replaces': l.home_replaces},
                {'ordinal': l.ordinal + 1, 'store': l.backup_store, 'replaces': l.backup_replaces}
            ]
        ) AS copy
    FROM line_rows AS l
    SEMI JOIN planned AS p ON l.source = p.source AND l.key = p.key
    WHERE l.is_stand_ins
)
SELECT
    c.source,
    c.key,
    c.copy.store AS store,
    CASE WHEN t.etag IS NULL THEN c.copy.replaces ELSE nullif(t.etag, '') END AS etag
FROM copies AS c
LEFT JOIN left_there AS t ON c.plan = t.plan AND c.batch = t.batch AND c.copy.ordinal = t.ordinal
WHERE c.copy.store IS NOT NULL
