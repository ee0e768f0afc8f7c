-- What is listed so far, beside one backup. Equal size and ETags of different kinds (a plain MD5, a composite of so many parts)
-- prove nothing: incomparable.
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
        WHEN
            a.in_primary
            AND (
                a.size <> b.size
                OR (
                    a.etag <> b.etag
                    AND comparable(a.etag, a.encryption) <> comparable(b.etag, b.encryption)
                    AND split_part(a.etag, '-', 2) = split_part(b.etag, '-', 2)
                )
            )
        THEN $bit
        ELSE 0
    END AS diverged,
    coalesce(a.incomparable, 0) + CASE
        WHEN
            a.in_primary
            AND a.size = b.size
            AND CASE
                WHEN a.etag = b.etag THEN comparable(a.etag, a.encryption) IS NULL OR NOT has_no_key(b.encryption)
                ELSE coalesce(
                    split_part(comparable(a.etag, a.encryption), '-', 2)
                    <> split_part(comparable(b.etag, b.encryption), '-', 2),
                    TRUE
                )
            END
        THEN $bit
        ELSE 0
    END AS incomparable
FROM ($listed) AS a
FULL JOIN (
    SELECT key, size, etag, encryption FROM read_parquet($backup, hive_partitioning = false) WHERE $share
) AS b
    ON a.key = b.key
