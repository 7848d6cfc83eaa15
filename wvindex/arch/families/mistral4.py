"""Mistral 4: DeepSeek's latent attention, softmax routing, and queries that sharpen with their position."""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.deepseek_v2 import deepseek_config
from wvindex.arch.family import Family, HubForm, RawMetadata
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla_gguf_fields
from wvindex.arch.rope import rope_fields

ROUTING: Final = {"scoring_func": "softmax", "topk_method": "noaux_tc", "norm_topk_prob": True}

BETA: Final = 0.1
"""The class's `llama_4_scaling_beta`: llama.cpp's converter from Hugging Face's form writes no key for it."""

ROPE: Final = {
    "rope_type": "yarn",
    "factor": 128.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": BETA,
}
"""What the class of transformers takes where a configuration has no rotary parameters."""


def _config(f: Fields) -> ModelConfig:
    if "rope_parameters" not in f and "rope_scaling" not in f:
        f = f.with_defaults({"rope_parameters": ROPE})
    rope = rope_fields(f, "full_attention")
    beta = rope.number("llama_4_scaling_beta", 0.0)
    _check_rotary_share(f, rope)
    own = {"attn_temperature_scale": beta}
    if beta:
        own["attn_temperature_length"] = rope.integer("original_max_position_embeddings")
    parameters = {name: value for name, value in rope.raw.items() if name != "partial_rotary_factor"}
    outer = {name: f.raw[name] for name in f.raw if name not in {"rope_scaling", "partial_rotary_factor"}}
    plain = Fields({**outer, "rope_parameters": parameters}, f.file)
    return deepseek_config(plain.with_defaults(own), "mistral4", ROUTING)


def _check_rotary_share(f: Fields, rope: Fields) -> None:
    """See that the rotary share of a whole head, which other families do not state, is the rotary part."""
    nope, rotary = f.integer("qk_nope_head_dim"), f.integer("qk_rope_head_dim")
    if "partial_rotary_factor" not in rope:
        return
    share = rope.number("partial_rotary_factor")
    if round(share * (nope + rotary), 3) != rotary:
        raise rope.error("partial_rotary_factor", f"{rotary} of {nope + rotary} dimensions", share)


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    mla_gguf_fields(hub, metadata)
    if "original_max_position_embeddings" in hub["rope_scaling"]:
        hub["rope_scaling"]["llama_4_scaling_beta"] = BETA


FAMILY = Family(
    name="mistral4",
    model_types=("mistral4",),
    config=_config,
    gguf_arch="mistral4",
    gguf_fields=_gguf_fields,
    stacked_experts=True,
)
