-- Outlier channels: columns of the residual stream that stand out 3 times in the matrices that read it
SELECT
  store,
  channel,
  count(*) AS matrices,
  count(DISTINCT layer) AS layers,
  max(absmax_ratio) AS most,
  arg_max(key, absmax_ratio) AS most_in
FROM channels
WHERE
  regexp_matches(role, '\.(q|k|v|q_a|kv_a|gate|up|latent)_proj')
  AND absmax_ratio >= 3
  AND NOT isnan(absmax_ratio) -- DuckDB takes NaN for the largest number
GROUP BY store, channel
ORDER BY matrices DESC, most DESC
LIMIT 20
