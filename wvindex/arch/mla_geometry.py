"""The geometry of Multi-head Latent Attention, as DeepSeek's configuration spells it."""

from __future__ import annotations

import math
from typing import Any

from wvindex.arch.config import MLA
from wvindex.arch.family import HubForm, RawMetadata
from wvindex.arch.fields import Fields
from wvindex.arch.rope import rope_fields, yarn_mscale, yarn_mscale_field

RANKS_AND_DIMS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def mla(f: Fields, *, interleaved_rope: bool = True, scaled: tuple[bool, bool] = (False, False)) -> MLA:
    """Read the ranks and head dimensions.

    `scaled` is whether what the norms of Q and of K and V give is multiplied by
    ``sqrt(hidden_size / rank)``, as in LongCat-Flash (arXiv:2509.01322: scale correction).

    The norms between the factors have an epsilon of 1e-6 whatever ``rms_norm_eps`` says, as in
    transformers, where they are made without it.

    Raises
    ------
    MetadataError
        If one is missing or zero, or the rotary part is odd.
    """
    for name in RANKS_AND_DIMS:
        if f.integer(name) == 0:
            raise f.error(name, "a positive integer", 0)
    if f.integer("qk_rope_head_dim") % 2:
        raise f.error("qk_rope_head_dim", "an even number", f.raw["qk_rope_head_dim"])
    return MLA(
        q_lora_rank=f.integer_or_none("q_lora_rank") or None,
        interleaved_rope=interleaved_rope,
        q_lora_scale=_lora_scale(f, "q_lora_rank") if scaled[0] else 1.0,
        kv_lora_scale=_lora_scale(f, "kv_lora_rank") if scaled[1] else 1.0,
        **{name: f.integer(name) for name in RANKS_AND_DIMS},
    )


def _lora_scale(f: Fields, rank: str) -> float:
    return (f.integer("hidden_size") / f.integer(rank)) ** 0.5 if f.raw.get(rank) else 1.0


def attn_temperature(f: Fields) -> dict[str, Any]:
    """Give the fields of ModelConfig that sharpen queries by their position, where there is such a scale."""
    scale = f.number("attn_temperature_scale", 0.0)
    if not scale:
        return {}
    length = f.integer("attn_temperature_length")
    if scale < 0 or length == 0:
        wrong = "attn_temperature_scale" if scale < 0 else "attn_temperature_length"
        raise f.error(wrong, "a positive number", f.raw[wrong])
    return {"attn_temperature_scale": scale, "attn_temperature_length": length}


def mla_overrides(f: Fields, geometry: MLA) -> dict[str, Any]:
    """Give the fields of ModelConfig that follow from the geometry, for `decoder_config`."""
    head_dim = geometry.qk_nope_head_dim + geometry.qk_rope_head_dim
    temperature = _temperature(f)
    scale = head_dim**-0.5 * temperature * temperature
    if not scale < math.inf:
        raise f.error("rope_scaling.mscale_all_dim", "a finite softmax scale", scale)
    return {
        "mla": geometry,
        "head_dim": head_dim,
        "v_head_dim": geometry.v_head_dim,
        "rope_head_dim": geometry.qk_rope_head_dim,
        "num_key_value_heads": f.integer("num_attention_heads"),
        "attention_scale": scale,
        "attention_form": "factored",
    }


def _temperature(f: Fields) -> float:
    """DeepSeek's mscale: YaRN's temperature, applied to the softmax scale twice (once for q, once for k)."""
    parameters = rope_fields(f, "full_attention")
    all_dim = yarn_mscale_field(parameters, "mscale_all_dim")
    if parameters.text("rope_type", "default") == "default" or not all_dim:
        return 1.0
    return yarn_mscale(parameters.positive("factor", 1.0), all_dim)


def mla_gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    """Complete the hub form of a GGUF file with MLA.

    llama.cpp's newer form describes the attention that it computes, with one KV head as wide as the
    latent vector, and gives the heads' own widths as ``key_length_mla`` and ``value_length_mla``.
    """
    rope_dim = metadata.get("rope.dimension_count")
    key_length = metadata.get("attention.key_length_mla", metadata.get("attention.key_length"))
    value_length = metadata.get("attention.value_length_mla", metadata.get("attention.value_length"))
    hub["q_lora_rank"] = metadata.get("attention.q_lora_rank")
    hub["kv_lora_rank"] = metadata.get("attention.kv_lora_rank")
    hub["qk_rope_head_dim"] = rope_dim
    if isinstance(key_length, int) and isinstance(rope_dim, int):
        hub["qk_nope_head_dim"] = key_length - rope_dim
    hub["v_head_dim"] = value_length
    hub["attn_temperature_scale"] = metadata.get("attention.temperature_scale")
    hub["attn_temperature_length"] = metadata.get("attention.temperature_length")
    hub.pop("head_dim", None)
    hub.pop("partial_rotary_factor", None)
    scaling = hub.get("rope_scaling")
    if scaling and scaling.get("rope_type") == "yarn":
        # llama.cpp cancels YaRN's factor on cos and sin for this architecture, and keeps
        # 0.1 * mscale_all_dim as the "log multiplier"; every published model has mscale = mscale_all_dim.
        scaling["attention_factor"] = 1.0
        multiplier = metadata.get("rope.scaling.yarn_log_multiplier", 0.0)
        scaling["mscale_all_dim"] = (
            round(multiplier * 10, 6) if isinstance(multiplier, float) else multiplier  # refused if no number
        )
