-- Bits by role: what is spent on each kind of tensor
SELECT
  store,
  role,
  string_agg(DISTINCT encoding, ' ' ORDER BY encoding) AS encodings,
  count(*) AS tensors,
  sum(count) AS weights,
  8 * sum(nbytes) / sum(count) AS bits_per_weight,
  100 * sum(nbytes) / sum(sum(nbytes)) OVER (PARTITION BY store) AS percent
FROM tensors
GROUP BY store, role
ORDER BY store, sum(nbytes) DESC
