-- The line's rows with one for each key: what goes to every site is sound where all stand-ins' copies are.
CREATE TEMP VIEW line AS
SELECT * EXCLUDE (home_store, backup_store, home_replaces, backup_replaces) FROM line_rows WHERE NOT is_stand_ins
UNION ALL BY NAME
SELECT
    source,
    key,
    TRUE AS is_stand_ins,
    any_value(store) AS store,
    any_value(version_id) AS version_id,
    any_value(etag) AS etag,
    any_value(size) AS size,
    any_value(last_modified) AS last_modified,
    bool_or(was_removed) AS was_removed,
    bool_or(was_deleted) AS was_deleted,
    bool_and(is_sound) AS is_sound,
    any_value(plan) AS plan,
    any_value(batch) AS batch,
    any_value(ordinal) AS ordinal
FROM line_rows
WHERE is_stand_ins
GROUP BY source, key
