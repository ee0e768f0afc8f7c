-- What is listed so far, beside one backup. Equal size and ETags of different kinds prove nothing: incomparable.
-- `comparable` is the ETag where it speaks of the content alone. It tells plain MD5s from composites by the part count.
SELECT
    coalesce(a.key, b.key) AS key,
    a.version_id,
    coalesce(a.size, b.size) AS size,
    coalesce(a.etag, b.etag) AS etag,
    a.last_modified,
    a.storage_class,
    a.encryption,
    a.lock,
    coalesce(a.in_primary, FALSE) AS in_primary,
    coalesce(a.seen, 0) + CASE WHEN b.key IS NULL THEN 0 ELSE $bit END AS seen,
    coalesce(a.diverged, 0) + CASE
        WHEN a.in_primary AND (
            a.size <> b.size
            OR (a.comparable <> b.comparable AND split_part(a.comparable, '-', 2) = split_part(b.comparable, '-', 2))
        )
        THEN $bit
        ELSE 0
    END AS diverged,
    coalesce(a.incomparable, 0) + CASE
        WHEN
            a.in_primary
            AND a.size = b.size
            AND coalesce(split_part(a.comparable, '-', 2) <> split_part(b.comparable, '-', 2), TRUE)
        THEN $bit
        ELSE 0
    END AS incomparable,
    a.comparable
FROM ($listed) AS a
FULL JOIN (SELECT key, size, etag, $comparable AS comparable FROM read_parquet($backup, hive_partitioning = false)) AS b ON a.key = b.key
