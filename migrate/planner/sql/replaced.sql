-- What the line's copies have left at the targets, by the ETags of their receipts: what changed or deleted objects take away. A
-- copy that never came to a receipt was to replace what the one before it had left. Of one that drifted, the ETag is not known: a
-- process that died may have left there what the source had then.
CREATE TEMP TABLE replaced AS
SELECT
    l.plan,
    l.batch,
    l.ordinal,
    CASE
        WHEN h.batch IS NULL THEN l.home_replaces
        WHEN h.etag IS NULL THEN coalesce(l.home_replaces, l.etag)
        ELSE nullif(h.etag, '')
    END AS home_replaces,
    CASE
        WHEN b.batch IS NULL THEN l.backup_replaces
        WHEN b.etag IS NULL THEN coalesce(l.backup_replaces, l.etag)
        ELSE nullif(b.etag, '')
    END AS backup_replaces
FROM line_rows AS l
SEMI JOIN planned AS p ON l.plan = p.line_plan AND l.batch = p.line_batch AND l.ordinal = p.line_ordinal
LEFT JOIN left_there AS h ON l.plan = h.plan AND l.batch = h.batch AND l.ordinal = h.ordinal
LEFT JOIN left_there AS b
    ON l.backup_store IS NOT NULL AND l.plan = b.plan AND l.batch = b.batch AND l.ordinal + 1 = b.ordinal
