-- Every key of a source store and its backups, once, in exactly one class, and what planning does with the owned ones.
COPY (
    WITH listed AS ($listed),
    ruled AS (SELECT *, $rule AS rule FROM listed),
    named AS (SELECT *, $user AS user_id FROM ruled),
    classed AS (
        SELECT
            n.*,
            u.turn,
            u.state,
            CASE
                WHEN n.rule IS NULL THEN 'unclassified'
                WHEN n.rule IN $shared_rules THEN 'shared'
                WHEN u.state IS NULL THEN 'orphan'
                WHEN u.state = 'out' THEN 'out-of-scope'
                ELSE 'owned'
            END AS class
        FROM named AS n
        LEFT JOIN users AS u ON n.user_id = u.user_id
    )
    SELECT
        '$source' AS source,
        CASE WHEN in_primary THEN '$source' ELSE $first_backup END AS origin,
        key,
        version_id,
        size,
        etag,
        last_modified,
        storage_class,
        encryption,
        lock,
        rule,
        turn,
        CASE WHEN class = 'orphan' THEN user_id END AS orphan_user,
        class,
        CASE
            WHEN class <> 'owned' THEN NULL
            WHEN state <> 'planned' THEN state
            WHEN in_primary OR rule IN $copied_rules THEN 'planned'
            WHEN rule IN $excluded_rules THEN 'excluded'
            ELSE 'blocked'
        END AS disposition,
        CASE
            WHEN NOT in_primary THEN 'backup_only'
            WHEN diverged > 0 THEN 'diverged'
            WHEN incomparable > 0 THEN 'incomparable'
            WHEN seen = 0 AND $backups > 0 THEN 'unbacked'
        END AS flag,
        in_primary,
        seen,
        diverged,
        incomparable
    FROM classed
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
