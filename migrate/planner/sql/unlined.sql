-- The same for a plan that has no parent: nothing is known yet.
SELECT
    *,
    CAST(NULL AS INTEGER) AS line_plan,
    CAST(NULL AS INTEGER) AS line_batch,
    CAST(NULL AS INTEGER) AS line_ordinal,
    CAST(NULL AS VARCHAR) AS line_store,
    FALSE AS is_stand_ins,
    FALSE AS was_removed,
    FALSE AS was_deleted,
    FALSE AS is_sound,
    FALSE AS is_unchanged
FROM ($listed)
