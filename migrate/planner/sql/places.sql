-- Where each user's objects stand in the order of all objects, and from which ordinal their copies are numbered in the batch.
-- A user who is split over several batches stands here once for each.
CREATE TEMP TABLE places AS
WITH held AS (
    SELECT s.number AS batch, s.turn, m.objects, m.copies
    FROM seats AS s
    JOIN movers AS m ON s.turn = m.turn
    UNION ALL
    SELECT number, first_turn, objects, copies FROM batches WHERE big
)
SELECT
    h.batch,
    h.turn,
    CAST(sum(h.objects) OVER (ORDER BY h.batch, h.turn) - h.objects AS BIGINT) AS first_row,
    CAST(sum(h.copies) OVER (PARTITION BY h.batch ORDER BY h.turn) - h.copies AS BIGINT) AS first_ordinal,
    m.fold,
    m.user_id,
    m.home,
    m.backup
FROM held AS h
JOIN movers AS m ON h.turn = m.turn
