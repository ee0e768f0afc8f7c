-- What cannot be read, or not be kept at a target, as far as the inventories tell: one row a reason.
INSERT INTO findings
WITH reasons AS (
    SELECT
        o.origin,
        p.user_id,
        o.key,
        r.role = 'home' AND $once AS told,
        list_filter(
            [
                CASE WHEN told AND storage_class IN $archived THEN {'kind': 'archived', 'detail': storage_class} END,
                CASE WHEN told AND encryption = 'SSE-C' THEN {'kind': 'customer_key', 'detail': encryption} END,
                CASE WHEN told AND lock IS NOT NULL THEN {'kind': 'object_lock', 'detail': lock} END,
                CASE WHEN told AND size > $object_max THEN {'kind': 'too_large', 'detail': NULL} END,
                CASE WHEN strlen(o.target_key) > t.key_bytes THEN {'kind': 'key_too_long', 'detail': r.store} END,
                CASE WHEN $bent THEN {'kind': 'odd_key', 'detail': r.store} END
            ],
            lambda reason: reason IS NOT NULL
        ) AS found
    FROM ordered AS o
    JOIN places AS p ON o.batch = p.batch AND o.turn = p.turn
    JOIN routes AS r ON o.source = r.source AND ((r.role = 'home' AND r.site = p.home) OR (r.role = 'backup' AND r.site = p.backup))
    JOIN target_stores AS t ON r.store = t.name
    WHERE
        coalesce(o.flag NOT IN ('deleted', 'left'), TRUE)
        AND (
            o.storage_class IN $archived
            OR o.encryption = 'SSE-C'
            OR o.lock IS NOT NULL
            OR o.size > $object_max
            OR strlen(o.target_key) > t.key_bytes
            OR $bent
        )
)
SELECT reason.kind, origin, user_id, key, reason.detail, 1
FROM (SELECT origin, user_id, key, unnest(found) AS reason FROM reasons WHERE len(found) > 0)
