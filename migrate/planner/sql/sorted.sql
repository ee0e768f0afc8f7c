-- The planned objects in their order: by batch, users by turn, objects by target key. What follows cuts files from it.
COPY (
    WITH seated AS (
        SELECT p.* EXCLUDE (target_key), s.number AS batch
        FROM planned AS p
        JOIN seats AS s ON p.turn = s.turn
        UNION ALL
        SELECT p.* EXCLUDE (target_key, copies_half, bytes_half, large_before), b.number AS batch
        FROM read_parquet($big, hive_partitioning = false) AS p
        JOIN batches AS b
            ON
                b.big
                AND p.turn = b.first_turn
                AND p.copies_half = b.copies_half
                AND p.bytes_half = b.bytes_half
                AND p.large_before = b.large_before
    )
    SELECT
        batch,
        turn,
        source,
        origin,
        key,
        version_id,
        size,
        etag,
        last_modified,
        storage_class,
        encryption,
        lock,
        rule,
        flag,
        line_plan,
        line_batch,
        line_ordinal
    FROM seated
    ORDER BY batch, turn, $target_key, source, key
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
