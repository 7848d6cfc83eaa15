"""Tokenizers: a checkpoint's own tokenizer.json, or one made from GGUF's vocabulary."""
