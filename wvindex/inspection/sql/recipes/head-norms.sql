-- Head norms by layer: how strongly heads attend (QK) and write (OV), and which do most
SELECT
  store,
  layer,
  count(*) AS heads,
  median(qk_norm) AS median_qk,
  max(qk_norm) AS most_qk,
  arg_max(head, qk_norm) AS qk_head,
  median(ov_norm) AS median_ov,
  max(ov_norm) AS most_ov,
  arg_max(head, ov_norm) AS ov_head
FROM heads
GROUP BY store, layer
ORDER BY store, layer
