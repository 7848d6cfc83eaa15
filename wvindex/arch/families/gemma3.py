"""Gemma 3: Gemma 2 with Q/K norms, no soft caps, and a second rotary base for the windowed layers."""

from __future__ import annotations

from wvindex.arch.config import LayerType, ModelConfig
from wvindex.arch.families.gemma2 import gemma_config, query_scalar
from wvindex.arch.family import Family, HubForm, RawMetadata, layer_count, stated_layer_types
from wvindex.arch.fields import Fields

# The family's configuration class: multimodal checkpoints leave out what equals its defaults.
DEFAULTS = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
THETA = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


def _config(f: Fields) -> ModelConfig:
    f = f.with_defaults(DEFAULTS)
    layers, pattern = layer_count(f), f.integer("sliding_window_pattern")
    kinds: tuple[LayerType, ...] = tuple(
        "sliding_attention" if (i + 1) % max(pattern, 1) else "full_attention" for i in range(layers)
    )
    f = f.with_defaults({"rope_parameters": _rope_parameters(f)})
    return gemma_config(f, "gemma3", stated_layer_types(f, layers) if "layer_types" in f else kinds)


def _rope_parameters(f: Fields) -> dict[str, object]:
    """Give transformers 5's nested form of the hub's: scaling is for the global layers alone."""
    scaling = f.child("rope_scaling")
    given = scaling.raw if scaling is not None else {"rope_type": "default"}
    return {
        "full_attention": {"rope_theta": f.number("rope_theta", THETA["full_attention"]), **given},
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": f.number("rope_local_base_freq", THETA["sliding_attention"]),
        },
    }


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    query_scalar(hub, metadata, layers_of_27b=62)
    if "rope.freq_base_swa" in metadata:
        hub["rope_local_base_freq"] = metadata["rope.freq_base_swa"]


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    config=_config,
    gguf_arch="gemma3",
    gguf_fields=_gguf_fields,
    gguf_norm_offset=1.0,
)
