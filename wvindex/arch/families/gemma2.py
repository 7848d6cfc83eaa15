"""Gemma 2: norms before and after each block, soft-capped scores and logits, every other layer windowed."""

from __future__ import annotations

from wvindex.arch.config import LayerType, ModelConfig
from wvindex.arch.family import Family, HubForm, RawMetadata, decoder_config, layer_count, stated_layer_types
from wvindex.arch.fields import Fields


def gemma_config(f: Fields, family: str, layer_types: tuple[LayerType, ...]) -> ModelConfig:
    """Read what Gemma 2 and 3 have in common. The embedding is scaled by the root of its width."""
    activation = f.text("hidden_activation", f.text("hidden_act", "gelu_pytorch_tanh"))
    return decoder_config(
        f,
        family,
        layer_types=layer_types,
        attention_scale=f.positive("query_pre_attn_scalar") ** -0.5,
        hidden_act=activation,
        attn_logit_softcapping=f.number_or_none("attn_logit_softcapping"),
        final_logit_softcapping=f.number_or_none("final_logit_softcapping"),
        norm_weight_offset=1.0,
        embedding_multiplier=f.integer("hidden_size") ** 0.5,
    )


def _config(f: Fields) -> ModelConfig:
    layers = layer_count(f)
    kinds: tuple[LayerType, ...] = tuple(
        "full_attention" if i % 2 else "sliding_attention" for i in range(layers)
    )
    return gemma_config(f, "gemma2", stated_layer_types(f, layers) if "layer_types" in f else kinds)


def query_scalar(hub: HubForm, metadata: RawMetadata, layers_of_27b: int) -> None:
    """Give GGUF's missing ``query_pre_attn_scalar``: the head's width, but hidden / heads in the 27B model.

    GGUF has no key for it; like llama.cpp, the 27B model is recognized by its number of layers.
    """
    hidden, heads = hub.get("hidden_size"), hub.get("num_attention_heads")
    if metadata.get("block_count") == layers_of_27b and isinstance(hidden, int) and isinstance(heads, int):
        hub["query_pre_attn_scalar"] = hidden / max(heads, 1)
    else:
        hub["query_pre_attn_scalar"] = hub.get("head_dim", 256)


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    query_scalar(hub, metadata, layers_of_27b=46)
    # llama.cpp's own defaults for keys that early files lack
    hub.setdefault("sliding_window", 4096)
    hub.setdefault("attn_logit_softcapping", 50.0)
    hub.setdefault("final_logit_softcapping", 30.0)


FAMILY = Family(
    name="gemma2",
    model_types=("gemma2",),
    config=_config,
    gguf_arch="gemma2",
    gguf_fields=_gguf_fields,
    gguf_norm_offset=1.0,
)
