-- The sites of each user whom the line has not placed, best first: one entry a ticket, by the SHA-256 over user, kind, site and ticket.
-- (A site with several tickets stands there several times; the first one that is open is taken, so this changes nothing.)
CREATE TEMP TABLE preferences AS
SELECT
    t.*,
    list_transform(
        list_reverse_sort(
            list_transform(
                r.home_tickets,
                lambda ticket: sha256(strlen(t.user_id) || ':' || t.user_id || ticket.form) || ticket.site
            )
        ),
        lambda scored: substr(scored, 65)
    ) AS homes,
    list_transform(
        list_reverse_sort(
            list_transform(
                r.backup_tickets,
                lambda ticket: sha256(strlen(t.user_id) || ':' || t.user_id || ticket.form) || ticket.site
            )
        ),
        lambda scored: substr(scored, 65)
    ) AS backups
FROM tally AS t
ANTI JOIN settled AS s ON t.user_id = s.user_id
JOIN rule_tickets AS r ON t.placement_rule = r.rule
