-- Tensors by kurtosis: where a few weights are far larger than the rest
SELECT store, key, encoding, kurtosis, absmax / std AS sigmas, outlier_share
FROM tensors
WHERE len(dims) > 1 AND NOT isnan(kurtosis)
ORDER BY kurtosis DESC
LIMIT 20
