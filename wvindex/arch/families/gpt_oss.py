"""GPT-OSS: every other layer windowed, attention sinks, biases everywhere, clamped SwiGLU, MXFP4 experts."""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import LayerType, ModelConfig
from wvindex.arch.family import (
    Family,
    HubForm,
    RawMetadata,
    decoder_config,
    layer_count,
    moe,
    stated_layer_types,
)
from wvindex.arch.fields import Fields
from wvindex.arch.keys import EXPERT_MODULES

ROPE: Final = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What the class of transformers takes where a configuration has no rotary scaling."""


def _config(f: Fields) -> ModelConfig:
    if "rope_parameters" not in f and "rope_scaling" not in f:
        f = f.with_defaults({"rope_scaling": ROPE})
    layers = layer_count(f)
    kinds: tuple[LayerType, ...] = tuple(
        "full_attention" if i % 2 else "sliding_attention" for i in range(layers)
    )
    # Top-k of the logits and softmax over those is softmax over all, top-k, and a sum of 1.
    routing = moe(
        f,
        "num_local_experts",
        width="intermediate_size",
        swiglu_limit=f.positive("swiglu_limit", 7.0),
        swiglu_alpha=f.positive("swiglu_alpha", 1.702),
    )
    return decoder_config(
        f, "gpt_oss", layer_types=stated_layer_types(f, layers) if "layer_types" in f else kinds, moe=routing
    )


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    """Say what GGUF has no key for: YaRN's bounds are not rounded to whole dimensions."""
    hub["rope_scaling"]["truncate"] = False
    if "moe_intermediate_size" in hub:
        hub["intermediate_size"] = hub["moe_intermediate_size"]


FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    config=_config,
    gguf_arch="gpt-oss",
    gguf_fields=_gguf_fields,
    renames=(
        (r"mlp\.router\.", "mlp.gate."),
        (r"mlp\.experts\.(gate_up|down)_proj_bias\Z", r"mlp.experts.\1_proj.bias"),
        (r"mlp\.experts\.(gate_up|down)_proj_blocks\Z", r"mlp.experts.\1_proj"),
    ),
    hub_names=((r"mlp\.gate\.", "mlp.router."),),
    splits={"mlp.experts.gate_up_proj": EXPERT_MODULES[:2]},
    interleaved=True,
    stacked_experts=True,
    transposed_experts=True,
    mxfp4_experts=True,
)
