"""From source tensors to operations: what to write, and from what."""
