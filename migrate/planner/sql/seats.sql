-- In which batch the users are who share theirs.
CREATE TEMP TABLE seats AS
WITH halves AS (
    SELECT
        turn,
        wave,
        CAST(sum(copies) OVER turns // $half_copies AS BIGINT) AS copies_half,
        CAST(sum(size_bytes) OVER turns // $half_bytes AS BIGINT) AS bytes_half
    FROM movers
    WHERE NOT big AND copies > 0
    WINDOW turns AS (PARTITION BY wave ORDER BY turn)
)
SELECT h.turn, b.number, b.file
FROM halves AS h
JOIN batches AS b
    ON NOT b.big AND h.wave = b.wave AND h.copies_half = b.copies_half AND h.bytes_half = b.bytes_half
