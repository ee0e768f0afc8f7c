-- The planned objects, unsorted, one folder for each file of the plan: what follows works on one file at a time, in memory.
COPY (
    SELECT p.*, s.number AS batch, s.file
    FROM planned AS p
    JOIN seats AS s ON p.turn = s.turn
    UNION ALL
    SELECT p.* EXCLUDE (copies_half, bytes_half, large_before), b.number AS batch, b.file
    FROM read_parquet($big, hive_partitioning = false) AS p
    JOIN batches AS b
        ON
            b.big
            AND p.turn = b.first_turn
            AND p.copies_half = b.copies_half
            AND p.bytes_half = b.bytes_half
            AND p.large_before = b.large_before
) TO $path (FORMAT parquet, COMPRESSION snappy, PARTITION_BY (file))
