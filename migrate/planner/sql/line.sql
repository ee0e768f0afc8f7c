-- What the line has planned of each key of a source, by the newest of its plans that did: where its receipts are to be found, and
-- whether nothing is left to do for it as long as it does not change. A key of the stand-ins has a row for each of them.
COPY (
    SELECT
        o.source,
        o.key,
        starts_with(o.user_id, $stand_ins) AS is_stand_ins,
        o.store,
        o.version_id,
        o.etag,
        o.size,
        o.last_modified,
        coalesce(o.flag IN ('deleted', 'left'), FALSE) AS was_removed,
        coalesce(o.flag = 'deleted', FALSE) AS was_deleted,
        home.ordinal IS NULL AND backup.ordinal IS NULL AS is_sound,
        o.plan,
        o.batch,
        o.ordinal,
        o.home_store,
        o.backup_store,
        o.home_replaces,
        o.backup_replaces
    FROM ($objects) AS o
    LEFT JOIN unsound AS home ON o.plan = home.plan AND o.batch = home.batch AND o.ordinal = home.ordinal
    LEFT JOIN unsound AS backup
        ON
            o.backup_store IS NOT NULL
            AND o.plan = backup.plan
            AND o.batch = backup.batch
            AND o.ordinal + 1 = backup.ordinal
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
