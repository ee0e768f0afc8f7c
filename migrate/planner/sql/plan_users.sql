-- The plan's users: every user of the directory with what was decided, also who stays. Files are in order of the SHA-256 of ids.
CREATE TEMP TABLE plan_users AS
WITH spans AS (SELECT turn, min(batch) AS first_batch, max(batch) AS last_batch FROM places GROUP BY turn)
SELECT
    u.number,
    u.user_id,
    u.country,
    u.country_given,
    u.state,
    u.scope_rule,
    coalesce(m.home, k.home) AS home,
    coalesce(m.backup, k.backup) AS backup,
    coalesce(m.placement_rule, k.placement_rule) AS placement_rule,
    coalesce(m.wave, k.wave) AS wave,
    coalesce(m.objects, 0) AS objects,
    coalesce(m.copies, 0) AS copies,
    coalesce(m.size_bytes, 0) AS size_bytes,
    s.first_batch,
    s.last_batch
FROM users AS u
LEFT JOIN movers AS m ON u.turn = m.turn
LEFT JOIN settled AS k ON u.user_id = k.user_id
LEFT JOIN spans AS s ON u.turn = s.turn
