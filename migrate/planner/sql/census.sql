-- Every key of a source store and its backups, once, in exactly one class, and what planning does with it.
-- `is_everywhere`: the line has copied it to every site. `for_all`: it is planned for the stand-ins, and not for a user.
COPY (
    WITH listed AS ($listed),
    ruled AS (SELECT *, $rule AS rule FROM listed),
    named AS (SELECT *, $user AS user_id FROM ruled),
    classed AS (
        SELECT
            n.*,
            CASE WHEN n.in_primary THEN '$source' ELSE $first_backup END AS origin,
            u.turn,
            u.state,
            CASE
                WHEN n.rule IS NULL THEN 'unclassified'
                WHEN n.rule IN $shared_rules THEN 'shared'
                WHEN u.state IS NULL THEN 'orphan'
                WHEN u.state IN ('out', 'leaving') THEN 'out-of-scope'
                ELSE 'owned'
            END AS class
        FROM named AS n
        LEFT JOIN users AS u ON n.user_id = u.user_id
    ),
    decided AS (
        SELECT
            c.*,
            CASE
                WHEN class = 'shared' THEN $shared_policy
                WHEN class = 'orphan'
                THEN CASE
                    WHEN v.user_id IS NULL THEN $orphan_policy
                    -- whose home has moved or who is forgotten: the sources are not ours to follow any more
                    WHEN v.is_away THEN 'keep'
                    ELSE 'undecided'
                END
            END AS policy
        FROM classed AS c
        LEFT JOIN vanished AS v ON c.user_id = v.user_id
    )
    SELECT
        '$source' AS source,
        CASE WHEN seen = 0 AND NOT in_primary THEN line_store ELSE coalesce(origin, '$source') END AS origin,
        key,
        version_id,
        size,
        etag,
        last_modified,
        storage_class,
        encryption,
        lock,
        rule,
        CASE WHEN class = 'orphan' THEN user_id END AS orphan_user,
        class,
        policy,
        CASE
            WHEN (state = 'leaving' AND line_plan IS NOT NULL) OR (state = 'out' AND is_stand_ins)
            THEN CASE WHEN was_removed AND is_sound THEN 'gone' ELSE 'left' END
            WHEN policy <> 'copy' THEN policy
            WHEN class IN ('unclassified', 'out-of-scope') THEN NULL
            WHEN state <> 'planned' THEN state
            -- what the source had and has no more was deleted there, whatever a backup still holds, and does not come back from it
            WHEN NOT in_primary AND line_plan IS NOT NULL AND (was_deleted OR seen = 0 OR line_store = '$source')
            THEN CASE WHEN was_removed AND is_sound THEN 'gone' ELSE 'deleted' END
            WHEN in_primary OR rule IN $copied_rules
            THEN CASE WHEN is_unchanged AND line_store = origin AND is_stand_ins = (class <> 'owned') THEN 'unchanged' ELSE 'planned' END
            WHEN rule IN $excluded_rules THEN 'excluded'
            ELSE 'blocked'
        END AS disposition,
        CASE
            WHEN disposition IN ('deleted', 'left', 'gone') THEN disposition
            WHEN NOT in_primary THEN 'backup_only'
            WHEN diverged > 0 THEN 'diverged'
            WHEN incomparable > 0 THEN 'incomparable'
            WHEN seen = 0 AND $backups > 0 THEN 'unbacked'
        END AS flag,
        CASE
            WHEN disposition IN ('deleted', 'left', 'gone') THEN is_stand_ins
            ELSE coalesce(policy = 'copy', FALSE)
        END AS for_all,
        is_stand_ins AND NOT (was_removed AND is_sound) AS is_everywhere,
        CASE WHEN NOT for_all THEN turn END AS turn,
        in_primary,
        seen,
        diverged,
        incomparable,
        -- what the stand-ins have left at the targets is found by key and store
        CASE WHEN NOT is_stand_ins THEN line_plan END AS line_plan,
        CASE WHEN NOT is_stand_ins THEN line_batch END AS line_batch,
        CASE WHEN NOT is_stand_ins THEN line_ordinal END AS line_ordinal
    FROM decided
) TO $path (FORMAT parquet, COMPRESSION uncompressed)
