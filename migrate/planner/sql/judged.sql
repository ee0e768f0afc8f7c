-- Every user of the directory, with the policy's verdict and what follows from it.
CREATE TEMP TABLE judged AS
WITH looked_up AS (
    SELECT
        d.user_id,
        coalesce(d.country_given, '') AS country_given,
        coalesce(p.country, '') AS country,
        coalesce(p.verdict, '$unknown_verdict') AS verdict,
        coalesce(p.rule, '$unknown_rule') AS rule,
        coalesce(d.hold, FALSE) AS hold,
        $status_moves AS status_moves
    FROM read_parquet($directory, hive_partitioning = false) AS d
    LEFT JOIN policy AS p ON p.code = $folded
)
SELECT
    user_id,
    country_given,
    country,
    CASE
        WHEN verdict <> 'in' THEN verdict
        WHEN hold THEN 'held'
        WHEN status_moves THEN 'planned'
        ELSE 'review'
    END AS state,
    CASE WHEN verdict = 'in' AND NOT hold AND NOT status_moves THEN 'scope.statuses' ELSE rule END AS scope_rule
FROM looked_up
