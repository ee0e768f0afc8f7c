-- An ETag where it speaks of the content alone: an MD5 or a composite of MD5s, with no customer's or KMS key behind it.
CREATE TEMP MACRO has_no_key(encryption) AS encryption IS NULL OR encryption = 'AES256';
CREATE TEMP MACRO comparable(etag, encryption) AS
    CASE WHEN has_no_key(encryption) AND regexp_full_match(etag, '[0-9a-f]{32}(-[0-9]+)?') THEN etag END
