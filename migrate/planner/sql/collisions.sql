-- Target keys that two objects would both take, be they planned, settled by the line, or about to be removed.
CREATE TEMP TABLE collisions AS
WITH copies AS (
    SELECT t.store AS target_store, p.target_key, p.origin AS store, p.key, m.user_id
    FROM standing AS p
    JOIN movers AS m ON p.turn = m.turn
    JOIN routes AS t
        ON p.source = t.source AND ((t.role = 'home' AND t.site = m.home) OR (t.role = 'backup' AND t.site = m.backup))
),
twice AS (SELECT target_store, target_key FROM copies GROUP BY ALL HAVING count(*) > 1)
SELECT c.*
FROM copies AS c
SEMI JOIN twice AS t ON c.target_store = t.target_store AND c.target_key = t.target_key
