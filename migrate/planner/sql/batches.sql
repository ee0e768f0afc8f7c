-- All batches, numbered from 1 by wave, first user and chunk. The other users of a wave fall together by halves of the bounds,
-- as in big.sql: each has at most half a bound, so that what shares a half stays within two.
CREATE TEMP TABLE batches AS
WITH halves AS (
    SELECT
        *,
        CAST(sum(copies) OVER turns // $half_copies AS BIGINT) AS copies_half,
        CAST(sum(size_bytes) OVER turns // $half_bytes AS BIGINT) AS bytes_half
    FROM movers
    WHERE NOT big AND copies > 0
    WINDOW turns AS (PARTITION BY wave ORDER BY turn)
),
groups AS (
    SELECT
        wave,
        min(turn) AS first_turn,
        max(turn) AS last_turn,
        copies_half,
        bytes_half,
        0 AS large_before,
        FALSE AS big,
        count(*) AS users,
        sum(objects) AS objects,
        sum(copies) AS copies,
        sum(size_bytes) AS size_bytes,
        NULL AS first_key
    FROM halves
    GROUP BY wave, copies_half, bytes_half
    UNION ALL
    SELECT
        any_value(m.wave),
        b.turn,
        b.turn,
        b.copies_half,
        b.bytes_half,
        b.large_before,
        TRUE,
        1,
        count(*),
        count(*) * any_value(m.fold),
        sum(b.size) * any_value(m.fold),
        min(b.target_key)
    FROM read_parquet($big, hive_partitioning = false) AS b
    JOIN movers AS m ON b.turn = m.turn
    GROUP BY b.turn, b.copies_half, b.bytes_half, b.large_before
),
numbered AS (
    SELECT
        *,
        CAST(
            row_number() OVER (ORDER BY wave, first_turn, copies_half, bytes_half, large_before) AS INTEGER
        ) AS number
    FROM groups
)
SELECT
    number,
    wave,
    users,
    CAST(objects AS BIGINT) AS objects,
    CAST(copies AS BIGINT) AS copies,
    CAST(size_bytes AS BIGINT) AS size_bytes,
    CASE WHEN big AND lag(number) OVER chunks IS NOT NULL THEN first_key END AS key_from,
    CASE WHEN big THEN lead(first_key) OVER chunks END AS key_until,
    first_turn,
    copies_half,
    bytes_half,
    large_before,
    big,
    CAST(sum(copies) OVER (ORDER BY number) // $file_copies AS INTEGER) AS file
FROM numbered
WINDOW chunks AS (PARTITION BY big, first_turn ORDER BY number)
