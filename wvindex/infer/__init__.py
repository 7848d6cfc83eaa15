"""A NumPy forward pass over a store, readable enough to teach from."""
