-- Where each planned user goes, with the sites that have closed so far.
CREATE OR REPLACE TEMP TABLE placed AS
WITH homes AS (SELECT *, list_filter(homes, lambda site: $open)[1] AS home FROM preferences)
SELECT
    * EXCLUDE (homes, backups),
    list_filter(backups, lambda site: site <> home AND $open)[1] AS backup,
    len(backups) > 0 AS wants_backup
FROM homes
