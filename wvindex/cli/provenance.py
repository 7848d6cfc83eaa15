"""Where a tensor came from and what was done on the way, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from wvindex.sizes import shape_text

if TYPE_CHECKING:
    from wvindex.formats.arrays import RowScale
    from wvindex.formats.ledger import LedgerEntry
    from wvindex.query.database import Store
    from wvindex.query.lazy import Tensor

Facts = Iterator[tuple[str, str]]

EXACTNESS: Final = {
    "bit": "the source's bytes as they are",
    "reordered": "the source's values, moved as a whole",
    "cast": "the source's values, in another encoding",
    "derived": "computed from the source's values",
}

TRANSFORMS: Final = {
    "split": "a part of a fused tensor",
    "deinterleave": "every other row (of biases, value) of a fused tensor",
    "transpose": "each expert's matrix turned: the source has (experts, in, out)",
    "join_mxfp4": "MXFP4's codes and exponents, which the source has in two tensors, joined to GGML's blocks",
    "permute": "rows of each head reordered for half-split rotation",
    "stack": "experts stacked",
    "cast": "converted to another encoding",
    "subtract_one": "1 subtracted: GGUF stores 1 + w",
    "join_kv_b": "K's and V's up-projections joined to one, K's transposed back",
    "order_axes": "the axes of MaxText's leaf put in order, heads joined, one layer of a stack",
    "unpermute_rope": "rows of each head, interleaved in MaxText, half-split",
    "scale_query": "times the root of the head's width, by which MaxText keeps it divided",
    "unscale_embedding": "divided by the root of its width, which MaxText keeps in it",
    "subtract_one_as_stored": "MaxText's 1 + w, without the 1",
    "join_latent": "rows of the down-projections, one under another: they give the factor that scales "
    "Q, K and V, one number a token",
    "fuse_qkv_a": "both down-projections as one matrix, the query's rows first",
    "rope_first": "rows of each head reordered: rotary ones first, half-split",
    "absorb_mla": "up-projection x norm weights x down-projection, multiplied out into one dense matrix; "
    "in each head of Q and K the rotary rows come first, half-split, and K's are the down-projection's own",
}
"""What each transform of a plan does."""

_FACTORS: Final = (
    (re.compile(r"_a_(layer)?norm\."), "norm weights"),
    (re.compile(r"(_q_a|_kv_a_mqa|\.q_a_proj|\.kv_a_proj_with_mqa)\."), "down-projection"),
    (re.compile(r"_(q|k|v|kv)_b\.|\.(q|kv)_b_proj\."), "up-projection"),
)
"""What a source tensor is to latent attention, by its name."""

_MOST_SOURCES: Final = 8
"""Source tensors that are listed; a stack of experts may have hundreds."""


def provenance(db: Store, tensor: Tensor) -> Facts:
    """Give facts: exactness, sources, transforms, other names, and the factor of its output."""
    yield "exactness", f"{tensor.exactness}: {EXACTNESS[tensor.exactness]}"
    yield from _sources(db, tensor)
    for position, part in enumerate(tensor.spec.parts):
        yield "" if position else "fused of", f"{part.key}: [{part.rows[0]}:{part.rows[1]}]"
    for position, name in enumerate(tensor.transforms):
        words = TRANSFORMS.get(name)
        yield "" if position else "how", f"{name}: {words}" if words else name
    if tensor.aliases:
        yield "also named", ", ".join(tensor.aliases)
    if tensor.row_scale is not None:
        yield from _row_scale(tensor.row_scale)
    if not tensor.spec.mapped:
        yield "note", "no rule maps this tensor: it keeps its own name"
    if tensor.mtp:
        yield "note", "multi-token prediction: no part of the forward pass"


def _sources(db: Store, tensor: Tensor) -> Facts:
    ledger = {entry.tensor: entry for entry in db.catalog.ledger} if db.catalog else {}
    absorbed = "absorb_mla" in tensor.transforms
    for position, name in enumerate(tensor.source[:_MOST_SOURCES]):
        notes = ", ".join([*_factor(name, absorbed), *_stored(name, ledger)])
        yield "" if position else "from", f"{name} ({notes})" if notes else name
    if len(tensor.source) > _MOST_SOURCES:
        yield "", f"and {len(tensor.source) - _MOST_SOURCES} more; --json names them"


def _factor(name: str, absorbed: bool) -> list[str]:
    found = next((role for pattern, role in _FACTORS if pattern.search(name)), None) if absorbed else None
    return [found] if found else []


def _stored(name: str, ledger: Mapping[str, LedgerEntry]) -> list[str]:
    entry = ledger.get(name)
    return [f"{entry.encoding} {shape_text(entry.shape)}", entry.file] if entry else []


def _row_scale(scale: RowScale) -> Facts:
    a, b = scale.rows
    i, j = scale.head_slice
    yield "scaled by", f"1 / sqrt(mean(c ** 2) + {scale.eps:g}), one number a token, where"
    yield "", f"c = {scale.weight}[{a}:{b}] @ x, and x is the layer's input;"
    yield "", f"it multiplies dimensions {i}:{j} of each head of the output"
