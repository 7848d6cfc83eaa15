-- Dead experts: whose norm is next to nothing beside the median expert's
SELECT store, key, layer, expert, l2, norm_ratio
FROM experts
WHERE dead
ORDER BY store, layer, key, expert
