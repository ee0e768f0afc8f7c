-- Neighbours that are out of order (there are none, or the row ids are no places), and neighbours of one source with one target
-- key: an inventory lists a key twice.
SELECT
    count(*) FILTER ((a.batch, a.turn, a.target_key, a.source) > (b.batch, b.turn, b.target_key, b.source)) AS disordered,
    count(*) FILTER (a.turn = b.turn AND a.source = b.source AND a.target_key = b.target_key) AS twice
FROM file_objects AS a
JOIN file_objects AS b ON b.rowid = a.rowid + 1
