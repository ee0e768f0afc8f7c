-- Every user of the directory, with the policy's verdict and what follows from it.
-- `turn`: the place of a planned user in the order of the SHA-256 of the ids, from 1. It stands for the user from here on.
CREATE TEMP TABLE users AS
WITH judged AS (
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
),
decided AS (
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
    FROM judged
)
SELECT
    *,
    CASE
        WHEN state = 'planned'
        THEN CAST(row_number() OVER (PARTITION BY state ORDER BY sha256(user_id), user_id) AS INTEGER)
    END AS turn
FROM decided
