-- The census in numbers: few rows, from which the sums of each store are taken and checked.
SELECT source, class, disposition, rule, in_primary, seen, diverged, incomparable, count(*), CAST(sum(size) AS BIGINT), policy
FROM census
GROUP BY ALL
ORDER BY ALL
