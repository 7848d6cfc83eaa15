"""Which vectors of a matrix belong to the residual stream: those that it reads, or those that it writes.

A matrix is stored [out, in]. One that takes the residual stream as its input reads each of its rows: a row's
product with the stream is one output. One whose output is added to the stream writes its columns: the stream
gets a sum of them. Rows of the embedding are what the stream begins with, rows of the head what it ends in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.keys import layer_key, split_layer
from wvindex.errors import SelectionError, UnsupportedModel, UsageError
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.spelling import items_text

Side = Literal["rows", "columns"]

Index = Sequence[Any]
"""Integers, slices and at most one ellipsis, an item an axis."""

VOCABULARY: Final = frozenset({"model.embed_tokens", "lm_head", "embed_tokens", "shared_head.head"})
"""Roles with a row for each token."""

READ: Final = VOCABULARY | frozenset(
    {
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "q_a", "latent")),
        "self_attn.kv_a_proj_with_mqa",
        "mlp.gate",
        *(
            f"mlp.{part}{name}_proj"
            for part in ("", "experts.", "shared_experts.")
            for name in ("gate", "up")
        ),
    }
)
"""Roles whose rows are vectors of the residual stream."""

WRITTEN: Final = frozenset(
    {"self_attn.o_proj", "eh_proj", *(f"mlp.{part}down_proj" for part in ("", "experts.", "shared_experts."))}
)
"""Roles whose columns are."""

INNER: Final = frozenset(f"self_attn.{name}_proj" for name in ("q_b", "kv_b", "k_b", "v_b"))
"""Roles between two factors of latent attention: no side of theirs is, whatever its length."""

_EXPERT: Final = re.compile(r"\Amlp\.experts\.\d+\.", re.ASCII)

MAX_VECTORS: Final = 1024
"""Vectors that one index may mean: 64 MiB of float64 where they have 8192 values."""

_FORMS: Final = {
    ("rows", 2): "KEY[row]",
    ("rows", 3): "KEY[expert, row]",
    ("columns", 2): "KEY[:, column]",
    ("columns", 3): "KEY[expert, :, column]",
}


def hidden_size(db: Store) -> int:
    """Give the width of the residual stream.

    Raises
    ------
    UnsupportedModel
        If the configuration does not say.
    """
    if db.config.hidden_size is None:
        raise UnsupportedModel(
            "the configuration does not say how wide the residual stream is",
            file=db.path,
            field="hidden_size",
        )
    return db.config.hidden_size


def side_of(tensor: Tensor, hidden: int) -> Side:
    """Say where a matrix, or each matrix of a stack, has its vectors of the residual stream.

    By its role, where it has a standard one; by its shape otherwise, if one side alone is `hidden` long.

    Raises
    ------
    UsageError
        If it has no such side, both sides could be it, or the role's side has another length.
    """
    role = role_of_stack(tensor.key)
    if tensor.ndim not in {2, 3}:
        raise _no_side("it is no matrix", tensor, "two axes, or three of a stack")
    if role in INNER:
        raise _no_side(
            "it stands between two factors of latent attention, whose sides are ranks and heads", tensor, None
        )
    if role in READ or role in WRITTEN:
        return _named_side(tensor, "rows" if role in READ else "columns", hidden)
    reads, writes = tensor.shape[-1] == hidden, tensor.shape[-2] == hidden
    if reads and writes:
        raise _no_side("its role is not known, and its shape does not tell them apart", tensor, None)
    if not (reads or writes):
        raise _no_side("none has its length", tensor, f"rows or columns of {hidden} values")
    return "rows" if reads else "columns"


def _named_side(tensor: Tensor, side: Side, hidden: int) -> Side:
    """Give the side that a role has, if it is as long as the residual stream is wide."""
    if tensor.shape[-1 if side == "rows" else -2] != hidden:
        raise _no_side("its role has them, but not of this length", tensor, f"{side} of {hidden} values")
    return side


def has_side(tensor: Tensor, hidden: int) -> bool:
    """Whether a tensor has vectors of the residual stream: see `side_of`."""
    try:
        side_of(tensor, hidden)
    except UsageError:
        return False
    return True


def role_of_stack(key: str) -> str:
    """Give a key's role without ``.weight``; one expert's is its stack's."""
    return _EXPERT.sub("mlp.experts.", split_layer(key)[1]).removesuffix(".weight")


def _no_side(reason: str, tensor: Tensor, expected: str | None) -> UsageError:
    return UsageError(
        f"this has no vectors of the residual stream: {reason}",
        tensor=tensor.key,
        expected=expected,
        found="x".join(map(str, tensor.shape)),
    )


@dataclass(frozen=True)
class ResidualVectors:
    """Vectors of a matrix, and where they stand in it.

    Attributes
    ----------
    values : array of float64, shape (n, hidden_size)
    side : {"rows", "columns"}
    places : tuple of (int or None, int)
        The expert, and the row or column.
    """

    values: NDArray[np.float64]
    side: Side
    places: tuple[tuple[int | None, int], ...]


def residual_vectors(db: Store, tensor: Tensor, index: Index | None) -> ResidualVectors:
    """Read the vectors that an index means: ``[row]``, ``[expert, row]`` or, of what writes, ``[:, column]``.

    Raises
    ------
    UsageError
        As `side_of`; SelectionError if the index does not mean whole vectors, or too many of them.
    """
    hidden = hidden_size(db)
    side = side_of(tensor, hidden)
    items = _per_axis(tensor, side, index)
    across = items[-1] if side == "rows" else items[-2]
    chosen = items[:-1] if side == "rows" else (*items[:-2], items[-1])
    if across.indices(hidden) != (0, hidden, 1):
        raise _not_whole(tensor, side, index)
    lengths = tensor.shape[:-1] if side == "rows" else (*tensor.shape[:-2], tensor.shape[-1])
    ranges = [range(*item.indices(length)) for item, length in zip(chosen, lengths, strict=True)]
    places = [
        (e, i) for e in (ranges[0] if len(ranges) > 1 else (None,)) for i in ranges[-1][: MAX_VECTORS + 1]
    ]
    if not 0 < len(places) <= MAX_VECTORS:
        raise SelectionError(
            "an index means some vectors",
            tensor=tensor.key,
            expected=f"1 to {MAX_VECTORS}",
            found=len(places) or "none",
        )
    values = np.asarray(tensor[items]).astype(np.float64)
    if side == "columns":
        values = values.swapaxes(-1, -2)
    return ResidualVectors(np.ascontiguousarray(values.reshape(-1, hidden)), side, tuple(places))


def one_or_all(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give (1, hidden_size) as one vector, and several as they are: what a table numbers."""
    return vectors if len(vectors) > 1 else vectors[0]


def _per_axis(tensor: Tensor, side: Side, index: Index | None) -> tuple[slice, ...]:
    """Give a slice for every axis; an integer is a slice of one."""
    if index is None or len(index) - (... in index) > tensor.ndim:
        raise _not_whole(tensor, side, index)
    items = list(index)
    at = items.index(...) if ... in items else len(items)
    rest = items[at + 1 :]
    items = items[:at] + [slice(None)] * (tensor.ndim - at - len(rest)) + rest
    return tuple(_slice(tensor, item, length) for item, length in zip(items, tensor.shape, strict=True))


def _slice(tensor: Tensor, item: Any, length: int) -> slice:
    if isinstance(item, slice):
        return item
    if not -length <= item < length:
        raise SelectionError(
            "the index is out of range", tensor=tensor.key, expected=f"0 to {length - 1}", found=item
        )
    return slice(item % length, item % length + 1)


def _not_whole(tensor: Tensor, side: Side, index: Index | None) -> SelectionError:
    return SelectionError(
        f"vectors of the residual stream are the {side} of this",
        tensor=tensor.key,
        expected=_FORMS[side, tensor.ndim],
        found="no index" if index is None else items_text(index),
    )


def gain_after(db: Store, tensor: Tensor) -> tuple[str, NDArray[np.float64]] | None:
    """Give the norm that stands between what a matrix writes and the residual stream, where a family has one.

    Gemma norms a branch before it is added. Its RMS is a number a token, its weight changes directions.

    Returns
    -------
    (str, array of float64, shape (hidden_size,)) or None
        The norm's key, and its weight with the family's offset.
    """
    layer, role = split_layer(tensor.key)[0], role_of_stack(tensor.key)
    if layer is None or role not in WRITTEN or not has_branch_norms(db, layer):
        return None
    name = "post_attention_layernorm" if role == "self_attn.o_proj" else "post_feedforward_layernorm"
    key = layer_key(layer, f"{name}.weight")
    return key, norm_gain(db, key)


def has_branch_norms(db: Store, layer: int) -> bool:
    """Whether a layer norms its branches, as Gemma does, so that the MLP's own norm has another name."""
    return layer_key(layer, "pre_feedforward_layernorm.weight") in db


def norm_gain(db: Store, key: str) -> NDArray[np.float64]:
    """Give a norm's weight as it multiplies, with what the family adds to it."""
    return np.asarray(db[key][:]).astype(np.float64) + db.config.norm_weight_offset
