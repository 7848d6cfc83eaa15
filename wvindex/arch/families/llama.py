"""Llama and Mistral: grouped-query attention, SwiGLU."""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config, window_everywhere
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    return decoder_config(f, "llama", layer_types=window_everywhere(f))


FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral"),
    config=_config,
    gguf_arch="llama",
    gguf_claims=lambda metadata: not metadata.get("expert_count"),
    gguf_permuted=True,
)
