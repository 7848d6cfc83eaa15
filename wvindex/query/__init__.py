"""Lazy tensors over a store or a bare checkpoint."""
