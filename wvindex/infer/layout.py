"""What a store must hold to be run: numbers that are there, tensors that are there, shapes that agree.

Everything is checked from headers before a weight is read, so a model that cannot be run is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from wvindex.arch.config import LayerType, MoE, Rope
from wvindex.errors import MetadataError, UnsupportedModel
from wvindex.infer.mlp import ACTIVATIONS, check_routing
from wvindex.infer.weights import WeightDatabase

_REQUIRED: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "hidden_act",
    "attention_scale",
)
_COUNTS: Final = (*_REQUIRED[:5], "v_head_dim", "vocab_size")

Shapes = Iterator[tuple[str, tuple[int | None, ...]]]
"""Keys with their shapes; None for a dimension that the configuration does not give."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The numbers of a `ModelConfig` that the forward pass reads, none of them missing."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    v_head_dim: int
    vocab_size: int
    rms_norm_eps: float
    norm_weight_offset: float
    hidden_act: str
    attention_scale: float
    attn_logit_softcapping: float | None
    residual_multiplier: float
    sliding_window: int | None
    layer_types: tuple[LayerType, ...]
    rope: Mapping[str, Rope]
    moe: MoE | None
    attn_temperature_scale: float
    attn_temperature_length: int | None
    index_topk: int | None


def check_runnable(db: WeightDatabase) -> Dimensions:
    """Give a model's dimensions, or refuse it.

    Raises
    ------
    UnsupportedModel
        If the family is unknown, the attention is stored as factors, a number or a tensor is missing,
        or the activation function is not known.
    MetadataError
        If a tensor's shape contradicts the configuration, or the configuration itself.
    """
    dimensions = _dimensions(db)
    _check_numbers(dimensions)
    for key, shape in _tensors(db, dimensions):
        _check_tensor(db, key, shape)
    _check_row_scales(db, dimensions)
    return dimensions


def head_key(db: WeightDatabase) -> str:
    """Give the key of the matrix that makes logits: the head's own, or the embedding where tied."""
    tied = db.config.tie_word_embeddings and "lm_head.weight" not in db
    return "model.embed_tokens.weight" if tied else "lm_head.weight"


def is_routed(db: WeightDatabase, layer: int) -> bool:
    """Whether a layer has experts: a router or experts, and no dense MLP in which they have no place."""
    mlp, moe = f"model.layers.{layer}.mlp", db.config.moe
    mixture = f"{mlp}.gate.weight" in db or f"{mlp}.experts.gate_proj.weight" in db
    return moe is not None and mixture and (moe.shortcut or f"{mlp}.gate_proj.weight" not in db)


def takes_shortcut(db: WeightDatabase, layer: int) -> bool:
    """Whether what the layer before has of experts is added after this one."""
    moe = db.config.moe
    return moe is not None and moe.shortcut and layer > 0 and is_routed(db, layer - 1)


def _dimensions(db: WeightDatabase) -> Dimensions:
    config = db.config
    if config.family is None:
        raise UnsupportedModel(
            "the forward pass does not know this model's family", field="model_type", found=config.model_type
        )
    if config.attention_form == "factored":
        raise UnsupportedModel(
            "this store holds factored projections; build a dense one with `wvindex build`",
            field="attention_form",
            expected="dense",
            found=config.attention_form,
        )
    if config.refuses_to_run:
        raise UnsupportedModel(
            "the forward pass does not know what this model needs", found=", ".join(config.refuses_to_run)
        )
    numbers = {name: getattr(config, name) for name in _REQUIRED}
    missing = [name for name, number in numbers.items() if number is None]
    if missing:
        raise UnsupportedModel(
            "the forward pass needs a number that the configuration lacks", field=", ".join(missing)
        )
    embedding = "model.embed_tokens.weight"
    _check_tensor(db, embedding, (None, config.hidden_size))
    return Dimensions(
        **numbers,
        v_head_dim=config.v_head_dim or numbers["head_dim"],
        vocab_size=db[embedding].shape[0],
        norm_weight_offset=config.norm_weight_offset,
        attn_logit_softcapping=config.attn_logit_softcapping,
        residual_multiplier=config.residual_multiplier,
        sliding_window=config.sliding_window,
        layer_types=config.layer_types or ("full_attention",) * numbers["num_hidden_layers"],
        rope=config.rope,
        moe=config.moe,
        attn_temperature_scale=config.attn_temperature_scale,
        attn_temperature_length=config.attn_temperature_length,
        index_topk=config.index_topk,
    )


def _check_numbers(d: Dimensions) -> None:
    if d.hidden_act not in ACTIVATIONS:
        raise UnsupportedModel(
            "the forward pass does not know this activation function",
            field="hidden_act",
            expected=" or ".join(ACTIVATIONS),
            found=d.hidden_act,
        )
    for name in _COUNTS:
        count = getattr(d, name)
        if count < 1:
            raise MetadataError("a count is out of range", field=name, expected="1 or more", found=count)
    if d.num_attention_heads % d.num_key_value_heads:
        raise MetadataError(
            "query heads do not divide among key heads",
            field="num_key_value_heads",
            expected=f"a divisor of {d.num_attention_heads} query heads",
            found=d.num_key_value_heads,
        )
    if len(d.layer_types) != d.num_hidden_layers:
        raise MetadataError(
            "layers and their types differ in number",
            field="layer_types",
            expected=d.num_hidden_layers,
            found=len(d.layer_types),
        )
    for layer_type in dict.fromkeys(d.layer_types):
        if layer_type not in d.rope:
            raise UnsupportedModel(
                "the configuration has no rotary embedding for a type of layer", field=f"rope.{layer_type}"
            )
        if d.rope[layer_type].rotary_dim > d.head_dim:
            raise MetadataError(
                "more dimensions are rotated than a head has",
                field=f"rope.{layer_type}.rotary_dim",
                expected=f"at most {d.head_dim}",
                found=d.rope[layer_type].rotary_dim,
            )
    if "sliding_attention" in d.layer_types and d.sliding_window is None:
        raise UnsupportedModel("a layer slides over a window of unknown width", field="sliding_window")
    if d.attn_temperature_scale and not d.attn_temperature_length:
        raise UnsupportedModel(
            "queries sharpen with their position, at steps of unknown length", field="attn_temperature_length"
        )
    if d.moe is not None:
        check_routing(d.moe)


def _tensors(db: WeightDatabase, d: Dimensions) -> Shapes:
    """Name every tensor that the forward pass reads, optional ones only where they are there."""
    yield "model.embed_tokens.weight", (d.vocab_size, d.hidden_size)
    yield "model.norm.weight", (d.hidden_size,)
    yield head_key(db), (None, d.hidden_size)
    for layer in range(d.num_hidden_layers):
        stem = f"model.layers.{layer}"
        for key, shape in (*_required(d), *_mlp(db, d, layer)):
            yield f"{stem}.{key}", shape
            bias = f"{stem}.{key.removesuffix('.weight')}.bias"
            if len(shape) > 1 and bias in db:
                yield bias, shape[:-1]
        for key, shape in _optional(d):
            if f"{stem}.{key}" in db:
                yield f"{stem}.{key}", shape
        if d.moe is not None and d.moe.shortcut and is_routed(db, layer) and layer + 1 == d.num_hidden_layers:
            raise UnsupportedModel(
                "the last layer has experts whose output is for the layer after it",
                tensor=f"{stem}.mlp.gate.weight",
            )
        if f"{stem}.pre_feedforward_layernorm.weight" in db:
            yield f"{stem}.post_feedforward_layernorm.weight", (d.hidden_size,)


def _required(d: Dimensions) -> Shapes:
    yield "input_layernorm.weight", (d.hidden_size,)
    yield "post_attention_layernorm.weight", (d.hidden_size,)
    yield "self_attn.q_proj.weight", (d.num_attention_heads * d.head_dim, d.hidden_size)
    yield "self_attn.k_proj.weight", (d.num_key_value_heads * d.head_dim, d.hidden_size)
    yield "self_attn.v_proj.weight", (d.num_key_value_heads * d.v_head_dim, d.hidden_size)
    yield "self_attn.o_proj.weight", (d.hidden_size, d.num_attention_heads * d.v_head_dim)


def _optional(d: Dimensions) -> Shapes:
    yield "self_attn.q_norm.weight", (d.head_dim,)
    yield "self_attn.k_norm.weight", (d.head_dim,)
    yield "self_attn.sinks", (d.num_attention_heads,)
    yield "pre_feedforward_layernorm.weight", (d.hidden_size,)
    if d.moe is not None:
        yield "mlp.gate.e_score_correction_bias", (d.moe.n_routed_experts + d.moe.n_zero_experts,)


def _mlp(db: WeightDatabase, d: Dimensions, layer: int) -> Shapes:
    stem = f"model.layers.{layer}"
    if d.moe is None or not is_routed(db, layer):
        yield from _gated(d, "mlp", (), _width(db, f"{stem}.mlp.gate_proj.weight"))
        return
    if d.moe.shortcut:
        yield from _gated(d, "mlp", (), _width(db, f"{stem}.mlp.gate_proj.weight"))
    experts = d.moe.n_routed_experts
    yield "mlp.gate.weight", (experts + d.moe.n_zero_experts, d.hidden_size)
    yield from _gated(d, "mlp.experts", (experts,), d.moe.moe_intermediate_size)
    if d.moe.n_shared_experts:
        yield from _gated(
            d, "mlp.shared_experts", (), _width(db, f"{stem}.mlp.shared_experts.gate_proj.weight")
        )


def _gated(d: Dimensions, part: str, stack: tuple[int, ...], width: int | None) -> Shapes:
    yield f"{part}.gate_proj.weight", (*stack, width, d.hidden_size)
    yield f"{part}.up_proj.weight", (*stack, width, d.hidden_size)
    yield f"{part}.down_proj.weight", (*stack, d.hidden_size, width)


def _width(db: WeightDatabase, key: str) -> int | None:
    """Give a matrix's rows: an MLP may be of any width, as long as its three matrices agree."""
    return db[key].shape[0] if key in db and db[key].shape else None


def _check_tensor(db: WeightDatabase, key: str, shape: tuple[int | None, ...]) -> None:
    if key not in db:
        raise UnsupportedModel("a tensor that the forward pass needs is missing", tensor=key)
    found = db[key].shape
    if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
        expected = tuple("any" if n is None else n for n in shape)
        raise MetadataError(
            "a tensor's shape contradicts the configuration", tensor=key, expected=expected, found=found
        )


def _check_row_scales(db: WeightDatabase, d: Dimensions) -> None:
    """Refuse a per-token factor that refers to rows or dimensions that are not there."""
    widths = {"q": d.head_dim, "k": d.head_dim, "v": d.v_head_dim}
    for layer in range(d.num_hidden_layers):
        for name, width in widths.items():
            key = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            scale = db[key].row_scale
            if scale is None:
                continue
            _check_tensor(db, scale.weight, (None, d.hidden_size))
            limits = (
                ("rows", scale.rows, db[scale.weight].shape[0]),
                ("head_slice", scale.head_slice, width),
            )
            for field, (start, stop), limit in limits:
                if not 0 <= start < stop <= limit:
                    raise MetadataError(
                        "a factor's range does not fit",
                        tensor=key,
                        field=f"row_scale.{field}",
                        expected=f"within 0 to {limit}",
                        found=(start, stop),
                    )
