-- Keys that only a backup holds and that the spec says to copy: what its inventory says of them.
COPY (
    SELECT c.* REPLACE (
        b.version_id AS version_id,
        b.last_modified AS last_modified,
        b.storage_class AS storage_class,
        b.encryption AS encryption,
        b.lock AS lock,
        b.size AS size,
        b.etag AS etag
    )
    FROM read_parquet($backup, hive_partitioning = false) AS b
    JOIN (SELECT * FROM census WHERE NOT in_primary AND disposition = 'planned' AND origin = '$origin') AS c ON b.key = c.key
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
