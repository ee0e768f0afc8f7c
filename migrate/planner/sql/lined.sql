-- What is listed, beside what the line has planned of it. A key that only the line knows is listed nowhere any more.
SELECT
    coalesce(a.key, b.key) AS key,
    coalesce(a.version_id, b.version_id) AS version_id,
    coalesce(a.size, 0) AS size,
    coalesce(a.etag, b.etag) AS etag,
    coalesce(a.last_modified, b.last_modified) AS last_modified,
    a.storage_class,
    a.encryption,
    a.lock,
    coalesce(a.in_primary, FALSE) AS in_primary,
    coalesce(a.seen, 0) AS seen,
    coalesce(a.diverged, 0) AS diverged,
    coalesce(a.incomparable, 0) AS incomparable,
    b.plan AS line_plan,
    b.batch AS line_batch,
    b.ordinal AS line_ordinal,
    b.store AS line_store,
    coalesce(b.is_stand_ins, FALSE) AS is_stand_ins,
    coalesce(b.was_removed, FALSE) AS was_removed,
    coalesce(b.was_deleted, FALSE) AS was_deleted,
    coalesce(b.is_sound, FALSE) AS is_sound,
    coalesce(
        b.is_sound
        AND NOT b.was_removed
        AND a.size = b.size
        AND a.etag = b.etag
        AND coalesce(a.version_id = b.version_id, TRUE)
        AND coalesce(a.last_modified = b.last_modified, TRUE),
        FALSE
    ) AS is_unchanged
FROM ($listed) AS a
FULL JOIN (SELECT * FROM line WHERE source = '$source' AND $share) AS b ON a.key = b.key
