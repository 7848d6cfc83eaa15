"""What no configuration may say, whether a source's metadata or a store's catalog says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wvindex.arch.config import ModelConfig, MoE, Rope
from wvindex.limits import MAX_ELEMENTS, MAX_EXPERTS, MAX_LAYERS, MAX_ROTARY_DIM, MAX_TOKEN_ID

_DIMENSIONS: Final = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "v_head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
_MLA_DIMENSIONS: Final = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_FACTORS: Final = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "norm_weight_offset",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_multiplier",
    "attn_temperature_scale",
)
_SCALES: Final = (1e-6, 1e6)
"""Of real models the softmax scale is 0.03 to 1; beyond these it is no attention in float32."""


@dataclass(frozen=True)
class Fault:
    """A field that says what cannot be; `field` is dotted, from the configuration's root."""

    field: str
    expected: str
    found: object


def first_fault(config: ModelConfig) -> Fault | None:
    """Find the first field that no model can have; None where there is none.

    A count is bounded for the tables that are made by it, and a number is finite. What only the forward
    pass needs, such as that a field is there, is its own to check.
    """
    return next(_faults(config), None)


def _faults(c: ModelConfig) -> Iterator[Fault]:
    least = 1 if c.family is not None else 0  # of an unknown family a 0 may mean that there is no such part
    for name in _DIMENSIONS:
        smallest = 0 if name in {"intermediate_size", "max_position_embeddings"} else least
        yield from _count(name, getattr(c, name), smallest, MAX_ELEMENTS)
    yield from _count("vocab_size", c.vocab_size, least, MAX_TOKEN_ID + 1)
    yield from _count("num_hidden_layers", c.num_hidden_layers, 0, MAX_LAYERS if least else MAX_ELEMENTS)
    yield from _count("num_nextn_predict_layers", c.num_nextn_predict_layers, 0, MAX_LAYERS)
    yield from _count("sliding_window", c.sliding_window, 1, MAX_ELEMENTS)
    yield from _count("attn_temperature_length", c.attn_temperature_length, 1, MAX_ELEMENTS)
    yield from _count("index_topk", c.index_topk, 1, MAX_ELEMENTS)
    yield from _number("rms_norm_eps", c.rms_norm_eps, least=0)
    if c.attention_scale is not None and not _SCALES[0] <= c.attention_scale <= _SCALES[1]:
        yield Fault("attention_scale", f"{_SCALES[0]} to {_SCALES[1]:.0f}", c.attention_scale)
    for name in _FACTORS:
        yield from _number(name, getattr(c, name))
    for kind, rope in c.rope.items():
        yield from _rope(f"rope.{kind}", rope)
    if c.moe is not None:
        yield from _routing(c.moe)
    if c.mla is not None:
        for name in _MLA_DIMENSIONS:
            yield from _count(f"mla.{name}", getattr(c.mla, name), 1, MAX_ELEMENTS)
        yield from _count("mla.q_lora_rank", c.mla.q_lora_rank, 1, MAX_ELEMENTS)
        yield from _number("mla.norm_eps", c.mla.norm_eps, least=0)
        for name in ("q_lora_scale", "kv_lora_scale"):
            yield from _number(f"mla.{name}", getattr(c.mla, name), least=0)


def _rope(where: str, rope: Rope) -> Iterator[Fault]:
    yield from _count(f"{where}.rotary_dim", rope.rotary_dim, 0, MAX_ROTARY_DIM)
    yield from _number(f"{where}.rope_theta", rope.rope_theta)
    yield from _number(f"{where}.attention_factor", rope.attention_factor)
    for name, frequencies in (("inv_freq", rope.inv_freq), ("long_inv_freq", rope.long_inv_freq)):
        if frequencies is None:
            continue
        if 2 * len(frequencies) != rope.rotary_dim:
            yield Fault(f"{where}.{name}", f"{rope.rotary_dim // 2} numbers", f"{len(frequencies)} numbers")
        for i, frequency in enumerate(frequencies):
            yield from _number(f"{where}.{name}[{i}]", frequency)


def _routing(moe: MoE) -> Iterator[Fault]:
    yield from _count("moe.n_routed_experts", moe.n_routed_experts, 1, MAX_EXPERTS)
    yield from _count("moe.n_zero_experts", moe.n_zero_experts, 0, MAX_EXPERTS)
    everything = moe.n_routed_experts + moe.n_zero_experts
    yield from _count("moe.num_experts_per_tok", moe.num_experts_per_tok, 1, everything)
    yield from _number("moe.swiglu_limit", moe.swiglu_limit, least=0)
    yield from _number("moe.swiglu_alpha", moe.swiglu_alpha)
    yield from _count("moe.moe_intermediate_size", moe.moe_intermediate_size, 1, MAX_ELEMENTS)
    yield from _count("moe.n_shared_experts", moe.n_shared_experts, 0, MAX_EXPERTS)
    if moe.n_group < 1 or moe.n_routed_experts % moe.n_group:
        yield Fault("moe.n_group", f"a divisor of {moe.n_routed_experts} experts", moe.n_group)
    yield from _count("moe.topk_group", moe.topk_group, 1, moe.n_group)
    yield from _number("moe.routed_scaling_factor", moe.routed_scaling_factor)


def _count(field: str, value: int | None, least: int, most: int) -> Iterator[Fault]:
    if value is not None and not least <= value <= most:
        yield Fault(field, f"an integer from {least} to {most}", value)


def _number(field: str, value: float | None, *, least: float | None = None) -> Iterator[Fault]:
    if value is None:
        return
    if not math.isfinite(value):
        yield Fault(field, "a finite number", value)
    elif least is not None and value < least:
        yield Fault(field, f"a finite number from {least}", value)
