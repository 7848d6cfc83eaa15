"""The leaves of a model's tree: every array in its place, every layer of a stack there, all alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from wvindex.arch.config import ModelConfig
from wvindex.arch.keys import FUSED_LATENT, LATENT_DOWN, split_layer
from wvindex.errors import DuplicateName, UnsupportedError, UsageError, WvindexError
from wvindex.exporting.maxtext_leaves import NOTHING, Change, LeafForm
from wvindex.exporting.maxtext_named import Home, Tree
from wvindex.exporting.outline import Outline
from wvindex.exporting.rows import joined
from wvindex.exporting.tensors import OutTensor, contradiction
from wvindex.sources.maxtext_names import HEAD_BIAS, HEADS_IN, HEADS_OUT, Layout

SCALED_QUERIES: Final = frozenset({"llama2", "mistral", "mixtral", "gemma2"})
"""Blocks whose queries MaxText keeps divided by the root of the head's width."""

_QUERY: Final = "self_attn.q_proj.weight"
_KEY: Final = "self_attn.k_proj.weight"
_KEY_VALUE: Final = ("self_attn.k_proj.", "self_attn.v_proj.")
_HEADED: Final = (HEADS_OUT, HEADS_IN, HEAD_BIAS)


@dataclass(frozen=True)
class Model:
    """What the tree's values are made by.

    Attributes
    ----------
    config : ModelConfig
    tree : Tree
    interleaves : bool
        Whether rotary heads are kept interleaved, as Llama 3.1's are.
    name : str
        For messages.
    """

    config: ModelConfig
    tree: Tree
    interleaves: bool
    name: str


def fused(tensors: Sequence[OutTensor], config: ModelConfig) -> list[OutTensor]:
    """Give tensors with both down-projections of each latent attention as one, the query's rows first.

    Raises
    ------
    UsageError
        If the model has no latent attention, or its queries no down-projection.
    UnsupportedError
        If one half is missing, or the two are in different encodings.
    """
    if config.mla is None or config.mla.q_lora_rank is None:
        what = "no latent attention" if config.mla is None else "no q_lora_rank"
        raise UsageError(
            f"there is nothing to fuse: the model has {what}",
            field="fused_mla_lora_proj",
            expected="latent attention whose queries have a down-projection",
            found=config.model_type,
        )
    by_key = {tensor.name: tensor for tensor in tensors}
    query, below = (f"{module}.weight" for module in LATENT_DOWN)
    result = []
    for tensor in tensors:
        role = split_layer(tensor.name)[1]
        parent = tensor.name.removesuffix(role)
        if role == query:
            result.append(_joined(f"{parent}{FUSED_LATENT}.weight", tensor, by_key.get(f"{parent}{below}")))
        elif role != below or f"{parent}{query}" not in by_key:
            result.append(tensor)
    return result


def _joined(name: str, query: OutTensor, below: OutTensor | None) -> OutTensor:
    if below is None or below.encoding != query.encoding or below.shape[1:] != query.shape[1:]:
        raise UnsupportedError(
            "the halves of this projection cannot be put side by side; give a dtype",
            tensor=name,
            expected=f"{query.encoding.name} {query.shape}",
            found=f"{below.encoding.name} {below.shape}" if below is not None else "nothing",
        )
    shape = (query.shape[0] + below.shape[0], *query.shape[1:])
    return OutTensor(name, shape, joined([query.rows, below.rows], vectors=False))


def add_leaves(outline: Outline, tensors: Iterable[OutTensor], model: Model) -> list[LeafForm]:
    """Put every tensor in its leaf; what has no place, or is not like the other layers, is a refusal."""
    members: dict[tuple[str, ...], list[tuple[Home, OutTensor]]] = {}
    shared = []
    for tensor in tensors:
        try:
            home = model.tree.home(tensor.name)
        except WvindexError as error:
            outline.refusals.append((tensor.name, error))
            continue
        if home is None:
            shared.append(tensor.name)
        else:
            members.setdefault(home.path, []).append((home, tensor))
    leaves = []
    for path, found in sorted(members.items()):
        try:
            leaves.append(_leaf(path, found, model))
        except WvindexError as error:
            outline.refusals.append((error.tensor or ".".join(path), error))
    if shared:
        outline.notes.append(
            f"not written, for MaxText shares them with the model: {', '.join(shared)}; its layers that "
            "predict further tokens have no norm and no head of their own"
        )
    return leaves


def _leaf(path: tuple[str, ...], found: Sequence[tuple[Home, OutTensor]], model: Model) -> LeafForm:
    home, first = found[0]
    by_position: dict[int, OutTensor] = {}
    for one, tensor in found:
        if one.position in by_position:
            raise DuplicateName(
                "two arrays are one leaf", tensor=tensor.name, found=by_position[one.position].name
            )
        by_position[one.position] = tensor
    _require_alike(".".join(path), home.count, by_position)
    layers = tuple(by_position[position] for position in range(home.count))
    role = split_layer(first.name)[1]
    sizes = _sizes(first, home.layout, role, model)
    return LeafForm(path, home.layout, sizes, layers, home.scanned, _change(first.name, sizes, home, model))


def _require_alike(name: str, count: int, layers: Mapping[int, OutTensor]) -> None:
    """Refuse a stack that lacks a layer, or whose layers differ: one leaf has one shape and one type."""
    first = next(iter(layers.values()))
    missing = next((position for position in range(count) if position not in layers), None)
    if missing is not None:
        raise UnsupportedError(
            "a layer lacks what the others have: MaxText's layers are all alike",
            tensor=first.name,
            expected=f"{count} of {name}",
            found=f"none in layer {missing} of the stack",
        )
    other = next(
        (one for one in layers.values() if (one.shape, one.encoding) != (first.shape, first.encoding)), None
    )
    if other is not None:
        raise UnsupportedError(
            "layers of one stack differ in shape or type; give a dtype, or do not scan layers",
            tensor=other.name,
            expected=f"{first.encoding.name} {first.shape}",
            found=f"{other.encoding.name} {other.shape}",
        )


def _sizes(tensor: OutTensor, layout: Layout, role: str, model: Model) -> tuple[int, ...]:
    """Give the sizes of a leaf's axes without layers: those of the matrix, heads apart."""
    shape, config = tensor.shape, model.config
    sizes: dict[int, int] = {}
    outer = shape[:-2] if layout.rows else ()
    if layout.experts is not None:
        sizes[layout.experts] = outer[0] if len(outer) == 1 else 0
    is_key_value = role.startswith(_KEY_VALUE)
    heads = (config.num_key_value_heads if is_key_value else config.num_attention_heads) or 1
    counted = ((layout.rows, shape[-2] if layout.rows else 1), (layout.columns, shape[-1] if shape else 1))
    for axes, count in counted:
        if len(axes) == 2:
            sizes |= {axes[0]: heads, axes[1]: count // heads}
        elif axes:
            sizes[axes[0]] = count
    found = tuple(sizes[axis] for axis in range(layout.ndim))
    if math.prod(found) != math.prod(shape) or len(shape) != 1 + bool(layout.rows) + (
        layout.experts is not None
    ):
        expected = f"a matrix of {heads} heads" if layout in _HEADED else f"{layout.ndim} axes"
        raise contradiction(tensor.name, model.name, expected, shape)
    return found


def _change(key: str, sizes: tuple[int, ...], home: Home, model: Model) -> Change:
    """Tell what MaxText's conversion does to the values of an array."""
    role, block = split_layer(key)[1], model.tree.block
    change = NOTHING
    if model.interleaves and role in (_QUERY, _KEY):
        change = replace(change, interleave=True)
    if role == _QUERY and block in SCALED_QUERIES:
        change = replace(change, multiply=float(np.float32(1 / np.sqrt(sizes[-1]))))
    if block == "gemma2":
        if key == "model.embed_tokens.weight":
            change = replace(change, multiply=float(np.float32(sizes[-1] ** 0.5)))
        elif key.endswith("norm.weight"):
            change = replace(change, add=1.0)
    return change
