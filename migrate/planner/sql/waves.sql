-- Waves: the canary by a SHA-256 of its own, the others by size, then by turn, in waves of nearly as many users each.
CREATE TEMP TABLE movers AS
WITH sized AS (
    SELECT
        * EXCLUDE (bytes),
        1 + CAST(backup IS NOT NULL AS INTEGER) AS fold,
        objects * fold AS copies,
        bytes * fold AS size_bytes,
        row_number() OVER (ORDER BY sha256('6:canary' || strlen(user_id) || ':' || user_id), turn) <= $canary_users AS canary
    FROM placed
),
others AS (
    SELECT turn, ntile($waves) OVER (ORDER BY size_bytes, turn) AS wave FROM sized WHERE NOT canary
)
SELECT
    s.* EXCLUDE (canary),
    CAST(coalesce(o.wave, 0) AS INTEGER) AS wave,
    s.copies > $half_copies OR s.size_bytes > $half_bytes AS big,
    s.copies > $copies_max OR s.size_bytes > $bytes_max AS split
FROM sized AS s
LEFT JOIN others AS o ON s.turn = o.turn
