-- A source store as its inventory lists it. `seen`, `diverged` and `incomparable` hold a bit for each of its backups.
SELECT
    key,
    version_id,
    size,
    etag,
    last_modified,
    storage_class,
    encryption,
    lock,
    TRUE AS in_primary,
    CAST(0 AS INTEGER) AS seen,
    CAST(0 AS INTEGER) AS diverged,
    CAST(0 AS INTEGER) AS incomparable
FROM read_parquet($primary, hive_partitioning = false)
WHERE $share
