"""How long each axis of MaxText's leaves is, by what the configuration says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from wvindex.sources.maxtext_names import FUSED

_HIDDEN: Final = "hidden_size"
_HEADS: Final = "num_attention_heads"
_GROUPS: Final = "num_key_value_heads"
_HEAD: Final = "head_dim"
_VOCABULARY: Final = "vocab_size"
_Q_RANK: Final = "q_lora_rank"
_KV_RANK: Final = "kv_lora_rank"
_ROTARY: Final = "qk_rope_head_dim"
_QUERY: Final = "qk_nope_head_dim + qk_rope_head_dim"
_KEY_VALUE: Final = "qk_nope_head_dim + v_head_dim"
_BELOW: Final = "kv_lora_rank + qk_rope_head_dim"
_FUSED: Final = "q_lora_rank + kv_lora_rank + qk_rope_head_dim"
_WIDTH: Final = "intermediate_size"
_EXPERTS: Final = "n_routed_experts"
_EXPERT_WIDTH: Final = "moe_intermediate_size"
_SHARED_WIDTH: Final = "n_shared_experts * moe_intermediate_size"

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    _EXPERTS: ("n_routed_experts", "num_experts", "num_local_experts"),
    _EXPERT_WIDTH: ("moe_intermediate_size", "intermediate_size"),
}
"""Names of a field in different families; the first that is there counts."""

_NORM: Final = (_HIDDEN,)
_HEAD_NORM: Final = (_HEAD,)

_COMMON: Final[Mapping[str, tuple[str, ...]]] = {
    "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
    "model.norm.weight": _NORM,
    "lm_head.weight": (_HIDDEN, _VOCABULARY),
    "input_layernorm.weight": _NORM,
    "post_attention_layernorm.weight": _NORM,
    "pre_feedforward_layernorm.weight": _NORM,
    "post_feedforward_layernorm.weight": _NORM,
    "enorm.weight": _NORM,
    "hnorm.weight": _NORM,
    "eh_proj.weight": ("2 * hidden_size", _HIDDEN),
    "self_attn.q_proj.weight": (_HIDDEN, _HEADS, _HEAD),
    "self_attn.k_proj.weight": (_HIDDEN, _GROUPS, _HEAD),
    "self_attn.v_proj.weight": (_HIDDEN, _GROUPS, _HEAD),
    "self_attn.o_proj.weight": (_HEADS, _HEAD, _HIDDEN),
    "self_attn.q_proj.bias": (_HEADS, _HEAD),
    "self_attn.k_proj.bias": (_GROUPS, _HEAD),
    "self_attn.v_proj.bias": (_GROUPS, _HEAD),
    "self_attn.o_proj.bias": _NORM,
    "self_attn.q_norm.weight": _HEAD_NORM,
    "self_attn.k_norm.weight": _HEAD_NORM,
    "mlp.gate_proj.weight": (_HIDDEN, _WIDTH),
    "mlp.up_proj.weight": (_HIDDEN, _WIDTH),
    "mlp.down_proj.weight": (_WIDTH, _HIDDEN),
    "mlp.gate.weight": (_HIDDEN, _EXPERTS),
    "mlp.gate.e_score_correction_bias": (_EXPERTS,),
    "mlp.experts.gate_proj.weight": (_EXPERTS, _HIDDEN, _EXPERT_WIDTH),
    "mlp.experts.up_proj.weight": (_EXPERTS, _HIDDEN, _EXPERT_WIDTH),
    "mlp.experts.down_proj.weight": (_EXPERTS, _EXPERT_WIDTH, _HIDDEN),
    "mlp.shared_experts.gate_proj.weight": (_HIDDEN, _SHARED_WIDTH),
    "mlp.shared_experts.up_proj.weight": (_HIDDEN, _SHARED_WIDTH),
    "mlp.shared_experts.down_proj.weight": (_SHARED_WIDTH, _HIDDEN),
}
_LATENT: Final[Mapping[str, tuple[str, ...]]] = {
    "self_attn.q_proj.weight": (_HIDDEN, _HEADS, _QUERY),
    "self_attn.o_proj.weight": (_HEADS, "v_head_dim", _HIDDEN),
    "self_attn.q_a_proj.weight": (_HIDDEN, _Q_RANK),
    "self_attn.q_a_layernorm.weight": (_Q_RANK,),
    "self_attn.q_b_proj.weight": (_Q_RANK, _HEADS, _QUERY),
    "self_attn.kv_a_proj_with_mqa.weight": (_HIDDEN, _BELOW),
    "self_attn.kv_a_layernorm.weight": (_KV_RANK,),
    "self_attn.kv_b_proj.weight": (_KV_RANK, _HEADS, _KEY_VALUE),
    FUSED: (_HIDDEN, _FUSED),
}
"""Of latent attention, where it differs."""


class Shapes:
    """What a configuration says of the leaves' axes.

    Parameters
    ----------
    hub : mapping
        In the form of Hugging Face's config.json. What it does not state has no length.
    """

    def __init__(self, hub: Mapping[str, Any]) -> None:
        self._hub = hub
        self._axes = {**_COMMON, **(_LATENT if hub.get(_KV_RANK) else {})}

    def axes(self, role: str) -> tuple[tuple[str, int | None], ...]:
        """Give the field and the length of each of a role's axes, in the leaf's order, without layers."""
        return tuple((field, self._length(field)) for field in self._axes.get(role, ()))

    def _length(self, field: str) -> int | None:
        for sign, joined in (("*", math.prod), ("+", sum)):
            if f" {sign} " in field:
                terms = [self._length(term) for term in field.split(f" {sign} ")]
                return None if None in terms else joined(term for term in terms if term is not None)
        return int(field) if field.isdigit() else self._stated(field)

    def _stated(self, field: str) -> int | None:
        for name in _ALIASES.get(field, (field,)):
            value = self._hub.get(name)
            if value is not None:
                return value if type(value) is int else None
        heads, hidden = self._hub.get(_HEADS), self._hub.get(_HIDDEN)
        if field == _GROUPS:
            return self._stated(_HEADS)
        if field == _HEAD and type(heads) is int and type(hidden) is int and heads > 0:
            return hidden // heads
        return None
