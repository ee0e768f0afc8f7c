-- The line's copies of planned objects, in their order. An object without a backup copy has none at the next ordinal: that is
-- the next object's.
CREATE TEMP TABLE asked AS
WITH copies AS (
    SELECT
        l.plan,
        l.batch,
        unnest(CASE WHEN l.backup_store IS NULL THEN [l.ordinal] ELSE [l.ordinal, l.ordinal + 1] END) AS ordinal
    FROM line AS l
    SEMI JOIN planned AS p ON l.plan = p.line_plan AND l.batch = p.line_batch AND l.ordinal = p.line_ordinal
)
SELECT *, row_number() OVER (ORDER BY plan, batch, ordinal) AS place FROM copies
