-- The users and the stand-ins, numbered in the order of the SHA-256 of their ids, which is the order of their files.
-- `turn`: the place in that order, from 1, of who has a batch: planned users, those who leave, of whom the line's copies are
-- removed, and after them the stand-ins. It stands for the user from here on.
CREATE TEMP TABLE users AS
WITH numbered AS (
    SELECT
        j.* REPLACE (
            CASE
                WHEN s.is_away THEN 'moved'
                WHEN j.state = 'out' AND s.user_id IS NOT NULL THEN 'leaving'
                ELSE j.state
            END AS state
        ),
        row_number() OVER (ORDER BY sha256(j.user_id), j.user_id) AS number
    FROM (
        SELECT user_id, country_given, country, state, scope_rule FROM judged
        UNION ALL
        SELECT user_id, '', '', 'stand-in', 'everywhere' FROM stand_ins
    ) AS j
    LEFT JOIN settled AS s ON j.user_id = s.user_id
)
SELECT
    *,
    CASE
        WHEN state IN ('planned', 'leaving', 'stand-in')
        THEN CAST(
            row_number() OVER (PARTITION BY state IN ('planned', 'leaving', 'stand-in') ORDER BY state = 'stand-in', number)
            AS INTEGER
        )
    END AS turn
FROM numbered
