"""SQL over the statistics of stores and checkpoints, computed where a query needs them."""
