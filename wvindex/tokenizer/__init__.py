"""Tokenizers: a checkpoint's own tokenizer.json, or one made from GGUF's vocabulary."""

from wvindex.tokenizer.loading import load_tokenizer
from wvindex.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
