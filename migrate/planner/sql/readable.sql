-- What cannot be read, or not be kept at a target, as far as the inventories tell: one row a reason.
INSERT INTO findings
WITH reasons AS (
    SELECT
        *,
        list_filter(
            [
                CASE WHEN target_role = 'home' AND storage_class IN $archived THEN {'kind': 'archived', 'detail': storage_class} END,
                CASE WHEN target_role = 'home' AND encryption = 'SSE-C' THEN {'kind': 'customer_key', 'detail': encryption} END,
                CASE WHEN target_role = 'home' AND lock IS NOT NULL THEN {'kind': 'object_lock', 'detail': lock} END,
                CASE WHEN target_role = 'home' AND size > $object_max THEN {'kind': 'too_large', 'detail': NULL} END,
                CASE WHEN strlen(target_key) > t.key_bytes THEN {'kind': 'key_too_long', 'detail': target_store} END,
                CASE
                    WHEN NOT t.odd_keys AND regexp_matches(target_key, $odd_key)
                    THEN {'kind': 'odd_key', 'detail': target_store}
                END
            ],
            lambda reason: reason IS NOT NULL
        ) AS found
    FROM file_copies AS c
    JOIN target_stores AS t ON c.target_store = t.name
)
SELECT reason.kind, store, user_id, key, reason.detail, 1
FROM (SELECT store, user_id, key, unnest(found) AS reason FROM reasons WHERE len(found) > 0)
