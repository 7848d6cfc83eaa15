"""DeepSeek-V2 and V2-Lite: latent attention, softmax routing in groups by their best expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, HubForm, RawMetadata, decoder_config, moe
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import attn_temperature, mla, mla_gguf_fields, mla_overrides


def _config(f: Fields) -> ModelConfig:
    return deepseek_config(f, "deepseek_v2", {"scoring_func": "softmax", "topk_method": "greedy"})


def deepseek_config(f: Fields, family: str, defaults: Mapping[str, Any], **special: Any) -> ModelConfig:
    """Read what V2, V3 and their likes have in common.

    `defaults` are the family's own for routing, `special` overrides single fields of the result.
    """
    f = f.with_defaults(defaults)
    routing = None
    if f.integer("n_routed_experts", 0):
        routing = moe(
            f,
            "n_routed_experts",
            n_shared_experts=f.integer("n_shared_experts", 0),
            scoring_func=_one_of(f, "scoring_func", ("softmax", "sigmoid")),
            topk_method=_one_of(f, "topk_method", ("greedy", "group_limited_greedy", "noaux_tc")),
            norm_topk_prob=f.flag("norm_topk_prob", False),
            n_group=f.integer("n_group", 1),
            topk_group=f.integer("topk_group", 1),
            routed_scaling_factor=f.number("routed_scaling_factor", 1.0),
        )
    overrides = mla_overrides(f, mla(f, interleaved_rope=f.flag("rope_interleave", True)))
    return decoder_config(
        f,
        family,
        moe=routing,
        num_nextn_predict_layers=f.integer("num_nextn_predict_layers", 0),
        **attn_temperature(f),
        **(overrides | special),
    )


def _one_of(f: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = f.text(name)
    if value not in allowed:
        raise f.error(name, f"one of {', '.join(allowed)}", value)
    return value


def gating_is_sigmoid(metadata: RawMetadata) -> bool:
    """Tell V3 from V2 in GGUF metadata: by the gating function, or by the router's correction bias."""
    gating = metadata.get("expert_gating_func", 0)
    return bool(gating == 2 or (gating == 0 and metadata.get("has_correction_bias")))


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    mla_gguf_fields(hub, metadata)
    groups = hub.get("n_group")
    grouped = isinstance(groups, int) and groups > 1
    hub["topk_method"] = "group_limited_greedy" if grouped else "greedy"


FAMILY = Family(
    name="deepseek_v2",
    model_types=("deepseek_v2",),
    config=_config,
    gguf_arch="deepseek2",
    gguf_claims=lambda metadata: not gating_is_sigmoid(metadata),
    gguf_fields=_gguf_fields,
)
