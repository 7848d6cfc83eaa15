"""LongCat-Flash: two sublayers of latent attention and MLP to a layer, experts beside the first of them.

A sublayer is a layer here, as in the model's key-value cache: layer i's are 2i and 2i + 1. The experts stand
with the first, on whose MLP's input they work; what they give is added after the second. Of them some have no
weights and give back what they are given (arXiv:2509.01322).
"""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config, moe
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla, mla_overrides
from wvindex.limits import MAX_EXPERTS, MAX_LAYERS

SUBLAYERS: Final = 2

_NAMES: Final = {
    "ffn_hidden_size": "intermediate_size",
    "expert_ffn_hidden_size": "moe_intermediate_size",
    "moe_topk": "num_experts_per_tok",
}
"""The family's names of fields that others have too."""


def _config(f: Fields) -> ModelConfig:
    counts_parts = "num_hidden_layers" in f and "num_layers" not in f
    layers = f.integer("num_hidden_layers") // SUBLAYERS if counts_parts else f.integer("num_layers")
    if not 0 < layers <= MAX_LAYERS // SUBLAYERS:
        raise f.error("num_layers", f"1 to {MAX_LAYERS // SUBLAYERS}", layers)
    given = {name: f.raw[own] for own, name in _NAMES.items() if own in f}
    f = Fields({**f.raw, **given, "num_hidden_layers": SUBLAYERS * layers}, f.file)
    return decoder_config(
        f,
        "longcat_flash",
        moe=moe(
            f,
            "n_routed_experts",
            routed_scaling_factor=f.number("routed_scaling_factor"),
            norm_topk_prob=_must_be(f, "norm_topk_prob", False),
            n_zero_experts=_zero_experts(f),
            shortcut=True,
        ),
        **mla_overrides(
            f, mla(f, scaled=(f.flag("mla_scale_q_lora", True), f.flag("mla_scale_kv_lora", True)))
        ),
    )


def _zero_experts(f: Fields) -> int:
    count = f.integer("zero_expert_num", 0)
    if count > MAX_EXPERTS:
        raise f.error("zero_expert_num", f"at most {MAX_EXPERTS}", count)
    if count and f.text("zero_expert_type", "identity") != "identity":
        raise f.error("zero_expert_type", "identity", f.raw["zero_expert_type"])
    return count


def _must_be(f: Fields, name: str, value: bool) -> bool:
    if f.flag(name, value) != value:
        raise f.error(name, str(value).lower(), f.raw[name])
    return value


FAMILY = Family(
    name="longcat_flash",
    model_types=("longcat_flash",),
    config=_config,
    gguf_arch="",  # llama.cpp does not have it
    gguf_claims=lambda metadata: False,
    sublayers=SUBLAYERS,
    renames=(
        (r"self_attn\.(?P<sublayer>[01])\.", "self_attn."),
        (r"mlps\.(?P<sublayer>[01])\.", "mlp."),
        (r"(?P<norm>input_layernorm|post_attention_layernorm)\.(?P<sublayer>[01])\.", r"\g<norm>."),
        # Its bias, where there is one, is not used: what is not mapped is not run.
        (r"mlp\.router\.classifier\.weight\Z", "mlp.gate.weight"),
        (r"mlp\.router\.e_score_correction_bias\Z", "mlp.gate.e_score_correction_bias"),
    ),
)
