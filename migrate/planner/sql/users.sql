-- The users, numbered in the order of the SHA-256 of their ids, which is the order of their files.
-- `turn`: the place of a planned user in that order, from 1. It stands for the user from here on.
CREATE TEMP TABLE users AS
WITH numbered AS (SELECT *, row_number() OVER (ORDER BY sha256(user_id), user_id) AS number FROM judged)
SELECT
    *,
    CASE
        WHEN state = 'planned' THEN CAST(row_number() OVER (PARTITION BY state ORDER BY number) AS INTEGER)
    END AS turn
FROM numbered
