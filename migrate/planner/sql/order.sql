-- Neighbours that are out of order, and neighbours of one source with one target key: an inventory lists a key twice.
WITH rows AS (
    SELECT file_row_number, batch, turn, target_key, source, key FROM ordered WHERE batch BETWEEN $first AND $last
)
SELECT
    count(*) FILTER ((a.batch, a.turn, a.target_key, a.source, a.key) > (b.batch, b.turn, b.target_key, b.source, b.key)) AS disordered,
    count(*) FILTER (a.turn = b.turn AND a.source = b.source AND a.target_key = b.target_key) AS twice
FROM rows AS a
JOIN rows AS b ON b.file_row_number = a.file_row_number + 1
