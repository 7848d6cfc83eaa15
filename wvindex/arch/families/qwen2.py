"""Qwen2 and Qwen2.5: Llama with biases on Q, K and V."""

from __future__ import annotations

from wvindex.arch.config import LayerType, ModelConfig
from wvindex.arch.family import Family, decoder_config, layer_count, stated_layer_types
from wvindex.arch.fields import Fields


def qwen_layer_types(f: Fields) -> tuple[LayerType, ...]:
    """Qwen's rule: with ``use_sliding_window``, the layers from ``max_window_layers`` on slide."""
    layers = layer_count(f)
    if f.raw.get("layer_types") is not None or not f.flag("use_sliding_window", False):
        return stated_layer_types(f, layers)
    first = f.integer("max_window_layers", layers)
    return tuple("sliding_attention" if i >= first else "full_attention" for i in range(layers))


def _config(f: Fields) -> ModelConfig:
    return decoder_config(f, "qwen2", layer_types=qwen_layer_types(f))


FAMILY = Family(name="qwen2", model_types=("qwen2",), config=_config, gguf_arch="qwen2")
