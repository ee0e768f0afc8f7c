-- Waves: the canary by a SHA-256 of its own, the others by size, then by turn, in waves of nearly as many users each. Who has a
-- wave already keeps it.
CREATE TEMP TABLE movers AS
WITH sized AS (
    SELECT
        p.* EXCLUDE (bytes),
        1 + CAST(p.backup IS NOT NULL AS INTEGER) AS fold,
        p.objects * fold AS copies,
        p.bytes * fold AS size_bytes,
        s.wave AS kept_wave
    FROM placed AS p
    LEFT JOIN settled AS s ON p.user_id = s.user_id
),
canary AS (
    SELECT turn
    FROM sized
    WHERE kept_wave IS NULL
    ORDER BY sha256('6:canary' || strlen(user_id) || ':' || user_id), turn
    LIMIT $canary_users
),
others AS (
    SELECT s.turn, ntile($waves) OVER (ORDER BY s.size_bytes, s.turn) AS wave
    FROM sized AS s
    ANTI JOIN canary AS c ON s.turn = c.turn
    WHERE s.kept_wave IS NULL
)
SELECT
    s.* EXCLUDE (kept_wave),
    CAST(coalesce(s.kept_wave, o.wave, 0) AS INTEGER) AS wave,
    s.copies > $half_copies OR s.size_bytes > $half_bytes AS big,
    s.copies > $copies_max OR s.size_bytes > $bytes_max AS split
FROM sized AS s
LEFT JOIN others AS o ON s.turn = o.turn
