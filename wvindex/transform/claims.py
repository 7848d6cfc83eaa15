"""What a known family's configuration says of shapes and layers, held against what will be stored.

A store whose configuration lies would give heads that are none, or be refused only when it is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.keys import split_layer
from wvindex.errors import MetadataError
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import FLOAT_ENCODINGS
from wvindex.sources.base import Source, TensorInfo

Claim = tuple[str, int | None]
"""A field of the configuration, or a product of some, and its number where it is known."""

_OF_WIDTH: Final = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def contradictions(
    source: Source, specs: Iterable[ArraySpec], config: ModelConfig
) -> Iterator[tuple[str, MetadataError]]:
    """Find arrays and layers that are not as the configuration of a known family says.

    Integer codes are left alone: they are no weights, whatever their shape. So are the projections of
    latent attention, which the plan of its absorption checks, and layers that are missing from a
    safetensors checkpoint, of which one shard may be opened alone.

    Yields
    ------
    tensor : str
        The source's name.
    error : MetadataError
    """
    tensors: dict[str, TensorInfo] = {}
    projections = _attention(config) | _feed_forward(config)
    layers: set[int] = set()
    for spec in specs:
        layer, role = split_layer(spec.key)
        if not spec.mapped or not spec.sources:
            continue
        if layer is not None:
            layers.add(layer)
        if spec.encoding.is_plain and spec.encoding.name not in FLOAT_ENCODINGS:
            continue
        for axis, (field, size) in _claims(role, spec, projections, config).items():
            if size is not None and (axis >= len(spec.shape) or spec.shape[axis] != size):
                tensors = tensors or {info.name: info for info in source.tensors()}
                yield spec.sources[0], _shape_error(tensors[spec.sources[0]], spec, axis, field, size)
    if source.format == "gguf" and layers:
        yield from _layers(source, layers, config)


def _claims(
    role: str, spec: ArraySpec, projections: Mapping[str, tuple[Claim, Claim]], config: ModelConfig
) -> dict[int, Claim]:
    """Give what the configuration says of an array's axes."""
    module, _, kind = role.rpartition(".")
    hidden: Claim = ("hidden_size", config.hidden_size)
    if module in {"model.norm", *_OF_WIDTH}:
        return {0: hidden}
    if module in {"model.embed_tokens", "lm_head"} and kind == "weight":
        return {1: hidden}
    if module not in projections or kind != "weight":
        return {}
    out, inner = projections[module]
    rows = max(len(spec.shape) - 2, 0)
    return {rows: out, rows + 1: inner}


def _attention(config: ModelConfig) -> dict[str, tuple[Claim, Claim]]:
    """Give the rows and columns of the projections of attention; nothing of latent attention."""
    if config.mla is not None:
        return {}
    hidden: Claim = ("hidden_size", config.hidden_size)
    values = config.v_head_dim or config.head_dim
    query = _product("num_attention_heads x head_dim", config.num_attention_heads, config.head_dim)
    return {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (
            _product("num_key_value_heads x head_dim", config.num_key_value_heads, config.head_dim),
            hidden,
        ),
        "self_attn.v_proj": (
            _product("num_key_value_heads x head_dim", config.num_key_value_heads, values),
            hidden,
        ),
        "self_attn.o_proj": (
            hidden,
            _product("num_attention_heads x head_dim", config.num_attention_heads, values),
        ),
    }


def _feed_forward(config: ModelConfig) -> dict[str, tuple[Claim, Claim]]:
    hidden: Claim = ("hidden_size", config.hidden_size)
    inner: Claim = ("intermediate_size", config.intermediate_size)
    rows = {
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    if config.moe is not None:
        inner = ("moe_intermediate_size", config.moe.moe_intermediate_size)
        rows |= {
            "mlp.experts.gate_proj": (inner, hidden),
            "mlp.experts.up_proj": (inner, hidden),
            "mlp.experts.down_proj": (hidden, inner),
        }
    return rows


def _product(field: str, count: int | None, width: int | None) -> Claim:
    return field, count * width if count is not None and width is not None else None


def _layers(source: Source, layers: set[int], config: ModelConfig) -> Iterator[tuple[str, MetadataError]]:
    stated = (config.num_hidden_layers or 0) + config.num_nextn_predict_layers
    wrong = sorted(set(range(config.num_hidden_layers or 0)) - layers) or sorted(
        layer for layer in layers if layer >= stated
    )
    if wrong:
        yield (
            f"blk.{wrong[0]}",
            MetadataError(
                "the number of layers is not that of the tensors",
                file=source.path,
                field="num_hidden_layers",
                expected=f"layers 0 to {stated - 1}",
                found=f"layers up to {max(layers)}, {len(layers)} of them",
            ),
        )


def _shape_error(info: TensorInfo, spec: ArraySpec, axis: int, field: str, size: int) -> MetadataError:
    return MetadataError(
        "a tensor's shape is not what the configuration says",
        file=info.file,
        tensor=info.name,
        field=field,
        expected=f"{size} along axis {axis}",
        found=spec.shape,
    )
