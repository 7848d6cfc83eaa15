"""Gemma 3: Gemma 2 with Q/K norms, no soft caps, and a second rotary base for the windowed layers."""

from __future__ import annotations

from wvindex.arch.config import LayerType, ModelConfig
from wvindex.arch.families.gemma2 import gemma_config, query_scalar
from wvindex.arch.family import Family, HubForm, RawMetadata, layer_count, stated_layer_types
from wvindex.arch.fields import Fields

THETA = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


def _config(f: Fields) -> ModelConfig:
    layers, pattern = layer_count(f), f.integer("sliding_window_pattern", 6)
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
