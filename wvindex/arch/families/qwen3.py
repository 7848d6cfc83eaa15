"""Qwen3: RMSNorms on each query and key head."""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.qwen2 import qwen_layer_types
from wvindex.arch.family import Family, decoder_config
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    return decoder_config(f, "qwen3", layer_types=qwen_layer_types(f))


FAMILY = Family(name="qwen3", model_types=("qwen3",), config=_config, gguf_arch="qwen3")
