-- The line's copies of planned objects, in their order. An object without a backup copy has none at the next ordinal: that is
-- the next object's.
CREATE TEMP TABLE asked AS
WITH rows AS (
    SELECT l.plan, l.batch, l.ordinal, l.backup_store
    FROM line_rows AS l
    SEMI JOIN planned AS p ON l.plan = p.line_plan AND l.batch = p.line_batch AND l.ordinal = p.line_ordinal
    UNION ALL
    SELECT l.plan, l.batch, l.ordinal, l.backup_store
    FROM line_rows AS l
    SEMI JOIN planned AS p ON l.source = p.source AND l.key = p.key
    WHERE l.is_stand_ins
),
copies AS (
    SELECT plan, batch, unnest(CASE WHEN backup_store IS NULL THEN [ordinal] ELSE [ordinal, ordinal + 1] END) AS ordinal
    FROM rows
)
SELECT *, row_number() OVER (ORDER BY plan, batch, ordinal) AS place FROM copies
