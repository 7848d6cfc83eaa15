"""Stores back to checkpoints: GGUF files and Hugging Face directories, tensor for tensor as they came."""
