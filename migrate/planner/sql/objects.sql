-- The objects of the batches $first to $last, with where each goes. An object's place in the order gives its ordinal in the batch.
CREATE OR REPLACE TEMP VIEW file_objects AS
SELECT
    o.batch,
    p.first_ordinal + (o.file_row_number - p.first_row) * p.fold AS ordinal,
    p.user_id,
    o.origin AS store,
    o.key,
    o.version_id,
    o.etag,
    o.size,
    o.last_modified,
    r.category,
    r.name AS rule,
    o.flag,
    h.store AS home_store,
    b.store AS backup_store,
    coalesce(e.home_replaces, eh.etag) AS home_replaces,
    coalesce(e.backup_replaces, eb.etag) AS backup_replaces,
    o.target_key
FROM ordered AS o
JOIN places AS p ON o.batch = p.batch AND o.turn = p.turn
JOIN layout_rules AS r ON o.rule = r.number
JOIN routes AS h ON h.role = 'home' AND o.source = h.source AND p.home = h.site
LEFT JOIN routes AS b ON b.role = 'backup' AND o.source = b.source AND p.backup = b.site
LEFT JOIN replaced AS e ON o.line_plan = e.plan AND o.line_batch = e.batch AND o.line_ordinal = e.ordinal
LEFT JOIN replaced_everywhere AS eh ON o.source = eh.source AND o.key = eh.key AND h.store = eh.store
LEFT JOIN replaced_everywhere AS eb ON o.source = eb.source AND o.key = eb.key AND b.store = eb.store
WHERE o.batch BETWEEN $first AND $last AND p.batch BETWEEN $first AND $last
