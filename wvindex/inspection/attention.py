"""The geometry of one layer's attention, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wvindex.arch.config import ModelConfig, Rope
from wvindex.formats.arrays import RowScale
from wvindex.inspection.factored import find_factors
from wvindex.inspection.heads import PROJECTIONS, head_projections
from wvindex.query.database import Store
from wvindex.query.layers import Layer

Form = Literal["dense", "absorbed", "factored"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What a layer's attention is. None where neither the configuration nor the tensors say.

    Attributes
    ----------
    form : {"dense", "absorbed", "factored"} or None
        Of the stored projections: ordinary ones; dense ones that latent attention was absorbed into; its
        factors.
    heads, kv_heads : int or None
    qk_head_dim, v_head_dim : int or None
    scale : float or None
        Multiplies scores before the softmax, all factors worked out.
    layer_type : str or None
        ``full_attention`` or ``sliding_attention``.
    window : int or None
        Positions that a query sees, in a layer with sliding attention.
    softcap : float or None
        Scores s become ``softcap * tanh(s / softcap)``.
    sinks, qk_norm, bias : bool
        Whether the layer has attention sinks, norms on queries and keys, biases of projections.
    rope_type : str or None
    rope_theta : float or None
    rotary_dim : int or None
        Leading dimensions of a head that are rotated.
    attention_factor : float or None
        Multiplies the rotation's cosines and sines.
    q_lora_rank, kv_lora_rank, qk_rope_head_dim, qk_nope_head_dim : int or None
        The factors that latent attention has, or that it was absorbed from.
    row_scales : mapping of str to RowScale
        For ``q``, ``k`` and ``v``: the factor, one a token, that is left of a norm between factors.
    """

    form: Form | None
    heads: int | None
    kv_heads: int | None
    qk_head_dim: int | None
    v_head_dim: int | None
    scale: float | None
    layer_type: str | None
    window: int | None
    softcap: float | None
    sinks: bool
    qk_norm: bool
    bias: bool
    rope_type: str | None
    rope_theta: float | None
    rotary_dim: int | None
    attention_factor: float | None
    q_lora_rank: int | None
    kv_lora_rank: int | None
    qk_rope_head_dim: int | None
    qk_nope_head_dim: int | None
    row_scales: Mapping[str, RowScale]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values by name."""
        return asdict(self)


def attention_of(db: Store, layer: Layer) -> Attention | None:
    """Give the geometry of a layer's attention; None for a layer without any."""
    config = db.config
    roles = {tensor.key.partition(".self_attn.")[2] for tensor in layer} - {""}
    if not roles:
        return None
    kind = config.layer_types[layer.number] if layer.number < len(config.layer_types) else None
    rope, mla = _rope(config, kind), config.mla
    return Attention(
        form=_form(db, layer),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        qk_head_dim=config.head_dim,
        v_head_dim=config.v_head_dim or config.head_dim,
        scale=config.attention_scale,
        layer_type=kind,
        window=config.sliding_window if kind == "sliding_attention" else None,
        softcap=config.attn_logit_softcapping,
        sinks="sinks" in roles,
        qk_norm="q_norm.weight" in roles or "k_norm.weight" in roles,
        bias=any(role.endswith("_proj.bias") for role in roles),
        rope_type=rope.rope_type if rope else None,
        rope_theta=rope.rope_theta if rope else None,
        rotary_dim=rope.rotary_dim if rope else None,
        attention_factor=rope.attention_factor if rope else None,
        q_lora_rank=mla.q_lora_rank if mla else None,
        kv_lora_rank=mla.kv_lora_rank if mla else None,
        qk_rope_head_dim=mla.qk_rope_head_dim if mla else None,
        qk_nope_head_dim=mla.qk_nope_head_dim if mla else None,
        row_scales=_row_scales(layer),
    )


def _rope(config: ModelConfig, kind: str | None) -> Rope | None:
    """Give the rotation of a kind of layer; of one beyond the forward pass, the only one that there is."""
    if kind is None and len(config.rope) == 1:
        return next(iter(config.rope.values()))
    return config.rope.get(kind or "full_attention")


def _form(db: Store, layer: Layer) -> Form | None:
    projections = head_projections(layer)
    if projections is None:
        return "factored" if find_factors(db, layer) else None
    return "absorbed" if any("absorb_mla" in t.transforms for t in projections.values()) else "dense"


def _row_scales(layer: Layer) -> dict[str, RowScale]:
    projections = head_projections(layer) or {}
    scales = {name: projections[name].row_scale for name in PROJECTIONS if name in projections}
    return {name: scale for name, scale in scales.items() if scale is not None}
