-- The next sites to close: those whose capacity the earliest turn overruns.
WITH loads AS (
    SELECT turn, home AS site, bytes FROM placed
    UNION ALL
    SELECT turn, backup AS site, bytes FROM placed WHERE backup IS NOT NULL
),
running AS (
    SELECT l.site, l.turn, sum(l.bytes) OVER (PARTITION BY l.site ORDER BY l.turn) AS total, c.capacity
    FROM loads AS l
    JOIN capacities AS c ON l.site = c.site
),
overruns AS (SELECT site, min(turn) AS turn FROM running WHERE total > capacity GROUP BY site)
SELECT site, turn FROM overruns WHERE turn = (SELECT min(turn) FROM overruns) ORDER BY site
