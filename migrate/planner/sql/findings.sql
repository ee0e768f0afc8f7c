-- What the census found that no copy stands for.
INSERT INTO findings
SELECT 'unclassified', unnest($stores_of_key), NULL, key, NULL, 1 FROM census WHERE class = 'unclassified'
UNION ALL
SELECT 'orphan', store, orphan_user, NULL, NULL, count(*)
FROM (SELECT unnest($stores_of_key) AS store, orphan_user FROM census WHERE class = 'orphan')
GROUP BY store, orphan_user
UNION ALL
SELECT
    'backup_only',
    c.origin,
    u.user_id,
    c.key,
    CASE
        WHEN c.disposition IN ('planned', 'unchanged') THEN 'copy'
        WHEN c.disposition = 'excluded' THEN 'exclude'
        ELSE 'block'
    END,
    1
FROM census AS c
JOIN users AS u ON c.turn = u.turn
WHERE c.flag = 'backup_only'
UNION ALL
SELECT 'review', 'directory', user_id, NULL, scope_rule, 1 FROM users WHERE state = 'review'
UNION ALL
-- whom the line has copied, and the directory does not know any more
SELECT 'vanished', 'directory', s.user_id, NULL, NULL, 1
FROM settled AS s
ANTI JOIN users AS u ON s.user_id = u.user_id
WHERE NOT s.is_away
