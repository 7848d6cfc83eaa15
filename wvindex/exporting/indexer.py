"""The sizes of a sparse attention's indexer, by its tensors."""

from __future__ import annotations

from typing import Final, NamedTuple

from wvindex.arch.keys import split_layer
from wvindex.errors import UnsupportedError
from wvindex.exporting.held import Held

_KEYS: Final = "self_attn.indexer.wk.weight"
_WEIGHTS: Final = "self_attn.indexer.weights_proj.weight"


class IndexerSizes(NamedTuple):
    """Of every layer that has an indexer.

    Attributes
    ----------
    heads, head_dim : int
    layers : frozenset of int
        Those that have one; the others take what an earlier one chose.
    """

    heads: int
    head_dim: int
    layers: frozenset[int]


def indexer_sizes(held: Held) -> IndexerSizes:
    """Find how many heads an indexer has, and how wide they are.

    Raises
    ------
    UnsupportedError
        If no layer has one, or they are not all of one size.
    """
    found: dict[str, dict[int, int]] = {_KEYS: {}, _WEIGHTS: {}}
    for rows in held.arrays.values():
        layer, role = split_layer(rows.spec.key)
        if layer is not None and role in found:
            found[role][layer] = rows.spec.shape[0]
    widths, heads = set(found[_KEYS].values()), set(found[_WEIGHTS].values())
    if len(widths) != 1 or len(heads) != 1 or found[_KEYS].keys() != found[_WEIGHTS].keys():
        raise UnsupportedError(
            "the model's indexers are not all there in one size",
            file=held.name,
            field="index_n_heads",
            expected=f"one shape of {_KEYS} and of {_WEIGHTS}",
            found=f"{sorted(widths)} and {sorted(heads)} rows",
        )
    return IndexerSizes(heads.pop(), widths.pop(), frozenset(found[_KEYS]))
