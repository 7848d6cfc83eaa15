"""Row orders: how the rows of Q and K stand in other layouts, as index arrays.

Each function gives, for every row of the standard layout, the row of the source that belongs there.
Half-split rotary embedding pairs dimension i with i + d/2; interleaved, 2i with 2i + 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]


def half_split(width: int) -> Order:
    """Give, for half-split dimensions, the interleaved ones: 0, 2, 4, ..., 1, 3, 5, ... Shape (width,)."""
    return np.arange(width, dtype=np.int64).reshape(width // 2, 2).T.ravel()


def unpermuted_heads(n_rows: int, n_heads: int) -> Order:
    """Undo llama.cpp's permutation of Llama's Q and K, which interleaves each head's rows.

    Parameters
    ----------
    n_rows : int
        n_heads * head_dim.
    n_heads : int

    Returns
    -------
    array of int64, shape (n_rows,)
    """
    head_dim = n_rows // n_heads
    return in_each_head(half_split(head_dim), n_heads, head_dim)


def rope_first(n_heads: int, nope: int, rope: int, *, interleaved: bool) -> Order:
    """Turn heads laid out [nope | rope] into [rope | nope], rope rows half-split.

    Returns
    -------
    array of int64, shape (n_heads * (nope + rope),)
    """
    turned = nope + (half_split(rope) if interleaved else np.arange(rope, dtype=np.int64))
    head = np.concatenate([turned, np.arange(nope, dtype=np.int64)])  # (rope + nope,)
    return in_each_head(head, n_heads, nope + rope)


def in_each_head(head: Order, n_heads: int, head_rows: int) -> Order:
    """Repeat an order within one head for heads `head_rows` apart. Shape (n_heads * head.size,)."""
    starts = np.arange(n_heads, dtype=np.int64) * head_rows
    order: Order = np.add.outer(starts, head).reshape(-1)  # (n_heads, head.size), flattened
    return order
