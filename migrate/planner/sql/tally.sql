-- How much there is of each user who has a turn. A user without objects counts too.
CREATE TEMP TABLE tally AS
WITH counted AS (
    SELECT turn, count(*) AS objects, CAST(sum(size) AS BIGINT) AS bytes FROM planned GROUP BY turn
)
SELECT
    u.turn,
    u.user_id,
    u.country,
    coalesce(c.objects, 0) AS objects,
    coalesce(c.bytes, 0) AS bytes,
    p.rule AS placement_rule
FROM users AS u
LEFT JOIN counted AS c ON u.turn = c.turn
LEFT JOIN country_rules AS p ON u.country = p.country
WHERE u.turn IS NOT NULL
