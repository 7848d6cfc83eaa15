-- Damage by role: what each source after the first lost of the first, and the bits that it spends
SELECT
  store,
  role,
  tensors,
  a_bits,
  b_bits,
  sqnr_db,
  rel_l2,
  cosine
FROM diff_roles
ORDER BY store, rel_l2 DESC
