-- The objects of users with more than half a batch's bound: one chunk for who fits into a batch, the others cut in byte order of
-- the target key.
-- Objects with the same target key (from different sources, to different stores) are one item, which is never split.
-- A chunk is what falls into the same half of a bound by the running sums' end, so two halves bound it; an item over half a
-- bound stands alone: the sums part it from what is before, the count of such items from what is after.
-- (A sum over 0 and 1, not a count with a FILTER: over a window that takes DuckDB 2.0 time by the square of the rows.)
COPY (
    WITH items AS (
        SELECT
            p.*,
            m.fold,
            m.split,
            count(*) OVER same AS item_objects,
            item_objects * m.fold AS item_copies,
            sum(p.size) OVER same * m.fold AS item_bytes,
            item_copies > $half_copies OR item_bytes > $half_bytes AS large
        FROM planned AS p
        JOIN movers AS m ON p.turn = m.turn
        WHERE m.big
        WINDOW same AS (PARTITION BY p.turn, p.target_key)
    )
    SELECT
        * EXCLUDE (fold, split, item_objects, item_copies, item_bytes, large),
        CASE WHEN split THEN CAST(count(*) OVER until * fold // $half_copies AS BIGINT) ELSE 0 END AS copies_half,
        CASE WHEN split THEN CAST(sum(size) OVER until * fold // $half_bytes AS BIGINT) ELSE 0 END AS bytes_half,
        CASE
            WHEN split
            THEN CAST(sum(CAST(large AS INTEGER)) OVER until - CASE WHEN large THEN item_objects ELSE 0 END AS BIGINT)
            ELSE 0
        END AS large_before
    FROM items
    WINDOW until AS (PARTITION BY turn ORDER BY target_key)
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
