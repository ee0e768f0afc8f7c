-- What the census found that no copy stands for.
INSERT INTO findings
SELECT 'unclassified', unnest($stores_of_key), NULL, key, NULL, 1 FROM census WHERE class = 'unclassified'
UNION ALL
-- without a detail: nobody has decided
SELECT 'orphan', store, orphan_user, NULL, nullif(policy, 'undecided'), count(*)
FROM (SELECT unnest($stores_of_key) AS store, orphan_user, policy FROM census WHERE class = 'orphan')
GROUP BY store, orphan_user, policy
UNION ALL
-- whom the directory has by now, and whose keys the line has copied to every site as an orphan's
SELECT 'claimed', 'directory', u.user_id, NULL, NULL, count(*)
FROM census AS c
JOIN users AS u ON c.turn = u.turn
WHERE c.is_everywhere AND c.disposition = 'planned'
GROUP BY u.user_id
UNION ALL
SELECT
    'backup_only',
    c.origin,
    coalesce(u.user_id, c.orphan_user),
    c.key,
    CASE
        WHEN c.disposition IN ('planned', 'unchanged') THEN 'copy'
        WHEN c.disposition = 'excluded' THEN 'exclude'
        ELSE 'block'
    END,
    1
FROM census AS c
LEFT JOIN users AS u ON c.turn = u.turn
WHERE c.flag = 'backup_only' AND (c.turn IS NOT NULL OR c.for_all)
UNION ALL
SELECT 'review', 'directory', user_id, NULL, scope_rule, 1 FROM users WHERE state = 'review'
UNION ALL
-- whom the line has copied, and the directory does not know any more
SELECT 'vanished', 'directory', user_id, NULL, NULL, 1 FROM vanished WHERE NOT is_away
