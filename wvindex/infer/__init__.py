"""A NumPy forward pass over a store, readable enough to teach from."""

from wvindex.infer.attention import gqa_attention_asym
from wvindex.infer.model import Model, Output

__all__ = ["Model", "Output", "gqa_attention_asym"]
