"""Grouped-query attention whose value heads may be of another width than its query and key heads.

Softmax is taken while running over tiles of keys (Milakov and Gimelshein, arXiv:1805.02867; Rabe and
Staats, arXiv:2112.05682): of each query only its largest score so far, the sum of exponentials and
the weighted sum of values are kept, and all three are rescaled when a larger score comes. So memory
grows with T and S, not with T·S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wvindex.errors import SelectionError, UsageError
from wvindex.formats.blas import one_thread
from wvindex.formats.kernels import threads
from wvindex.formats.workers import share

QUERY_TILE: Final = 256
KEY_TILE: Final = 512
TILE_SCORES: Final = 1 << 21
"""Scores that are in memory at once (8 MiB); as many heads are worked together as fit."""

PARALLEL_SCORES: Final = 1 << 18
"""Scores that are worth starting threads for: some milliseconds' work."""


def gqa_attention_asym(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    num_q_heads: int,
    num_kv_heads: int,
    qk_head_dim: int,
    v_head_dim: int,
    scale: float,
    causal: bool = True,
    q_offset: int = 0,
    softcap: float | None = None,
    window: int | None = None,
    sinks: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Attend with grouped queries: query head h reads key and value head ``h // (num_q / num_kv)``.

    For a query at position i = q_offset + t and the keys j that it sees, head by head,
    ``softmax_j(cap(q_i · k_j * scale)) @ v_j`` with ``cap(s) = softcap * tanh(s / softcap)``. With
    `qk_head_dim` equal to `v_head_dim` this is ordinary grouped-query attention, with `num_kv_heads`
    equal to `num_q_heads` multi-head, with one of them multi-query attention.

    Parameters
    ----------
    q : (T, num_q_heads * qk_head_dim)
    k : (S, num_kv_heads * qk_head_dim)
    v : (S, num_kv_heads * v_head_dim)
        Computed in float32.
    num_q_heads, num_kv_heads : int
        The first is a multiple of the second.
    qk_head_dim, v_head_dim : int
    scale : float
        Multiplies q·k.
    causal : bool
        Whether a query sees no key after its own position.
    q_offset : int
        Position of the first query, where the first key is at 0.
    softcap : float, optional
        Bounds the scores smoothly to ±softcap, before masking (Gemma 2).
    window : int, optional
        Sliding window: a query at i sees keys with i - j < window. Keys after i are left to `causal`.
    sinks : (num_q_heads,), optional
        A score of each head that joins the softmax's denominator and has no value (GPT-OSS).

    Returns
    -------
    (T, num_q_heads * v_head_dim) float32
        Zeros for a query that sees no key, with sinks or without.

    Raises
    ------
    SelectionError
        If an array's shape does not follow from the numbers.
    UsageError
        If a number is out of its range.
    """
    counts = {
        "num_q_heads": num_q_heads,
        "num_kv_heads": num_kv_heads,
        "qk_head_dim": qk_head_dim,
        "v_head_dim": v_head_dim,
    }
    _check_numbers(counts, scale, softcap, window)
    queries = _heads(q, "q", num_q_heads, qk_head_dim) * np.float32(scale)
    keys = _heads(k, "k", num_kv_heads, qk_head_dim).transpose(1, 2, 0)  # (num_kv_heads, qk_head_dim, S)
    values = _heads(v, "v", num_kv_heads, v_head_dim).transpose(1, 0, 2)  # (num_kv_heads, S, v_head_dim)
    length, n_keys, group = len(queries), keys.shape[2], num_q_heads // num_kv_heads
    if values.shape[1] != n_keys:
        raise SelectionError("k and v differ in length", field="v", expected=n_keys, found=values.shape[1])
    queries = queries.reshape(length, num_kv_heads, group, qk_head_dim).transpose(1, 2, 0, 3)
    floor = _sinks(sinks, num_q_heads).reshape(num_kv_heads, group, 1)
    mask = _Mask(causal=causal, window=window, q_offset=q_offset)
    out = np.empty((length, num_kv_heads, group, v_head_dim), np.float32)
    n_threads = threads() if num_q_heads * length * n_keys >= PARALLEL_SCORES else 1
    tile_scores = group * min(max(length, 1), QUERY_TILE) * KEY_TILE * n_threads
    heads_at_once = max(1, min(TILE_SCORES // tile_scores, num_kv_heads // n_threads))

    def attend(tiles: Iterator[tuple[slice, slice]]) -> None:
        for heads, rows in tiles:
            softmax = _RunningSoftmax(queries[heads, :, rows], floor[heads], v_head_dim)
            for columns in _tiles(*mask.visible(rows, n_keys), KEY_TILE):
                hidden = mask.hidden(rows, columns)
                softmax.add(keys[heads, :, columns], values[heads, columns], softcap, hidden)
            out[rows, heads] = softmax.result().transpose(2, 0, 1, 3)

    with one_thread():
        all_heads = _tiles(0, num_kv_heads, heads_at_once)
        share([(h, rows) for h in all_heads for rows in _tiles(0, length, QUERY_TILE)], attend, n_threads)
    return out.reshape(length, num_q_heads * v_head_dim)


class _RunningSoftmax:
    """The softmax-weighted sum of values for one tile of queries, over tiles of keys that come in turn."""

    def __init__(self, queries: NDArray[np.float32], sinks: NDArray[np.float32], v_head_dim: int) -> None:
        """Start from queries (heads, group, rows, qk_head_dim) and sinks (heads, group, 1)."""
        heads, group, length, width = queries.shape
        self.shape = (heads, group, length)
        self.queries = queries.reshape(heads, group * length, width)
        self.largest = np.broadcast_to(sinks, self.shape)
        # A sink's own exp(sink - largest) is 1; without one nothing is there yet.
        self.total = np.isfinite(self.largest).astype(np.float32)
        self.weighted = np.zeros((*self.shape, v_head_dim), np.float32)

    def add(
        self,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        softcap: float | None,
        hidden: NDArray[np.bool_] | None,
    ) -> None:
        """Take in a tile: keys (heads, qk_head_dim, n), values (heads, n, v_head_dim), hidden (rows, n)."""
        scores = (self.queries @ keys).reshape(*self.shape, -1)
        if softcap is not None:
            scores /= np.float32(softcap)
            np.tanh(scores, out=scores)
            scores *= np.float32(softcap)
        if hidden is not None:
            np.copyto(scores, -np.inf, where=hidden)
        largest = np.maximum(self.largest, scores.max(axis=-1))
        # A query that has seen no key yet: any finite number does, for exp(-inf - it) is 0.
        base = np.where(np.isneginf(largest), np.float32(0), largest)
        scores -= base[..., None]
        weights = np.exp(scores, out=scores)
        shrink = np.exp(self.largest - base)
        heads, group, length = self.shape
        product = weights.reshape(heads, group * length, -1) @ values
        self.total = self.total * shrink + weights.sum(axis=-1)
        self.weighted *= shrink[..., None]
        self.weighted += product.reshape(self.weighted.shape)
        self.largest = largest

    def result(self) -> NDArray[np.float32]:
        """Give (heads, group, rows, v_head_dim)."""
        self.total[self.total == 0] = 1  # nothing seen: 0 / 1
        return np.divide(self.weighted, self.total[..., None])


@dataclass(frozen=True, kw_only=True)
class _Mask:
    """Which keys a query sees; query t is at position q_offset + t, key j at j."""

    causal: bool
    window: int | None
    q_offset: int

    def visible(self, rows: slice, n_keys: int) -> tuple[int, int]:
        """Give the range of keys outside which no query of `rows` sees any."""
        first, end = self.q_offset + rows.start, self.q_offset + rows.stop
        start = 0 if self.window is None else max(0, first - self.window + 1)
        return start, min(n_keys, end) if self.causal else n_keys

    def hidden(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Mark, (rows, columns), the keys that a query does not see; None if they see all of them."""
        first, end = self.q_offset + rows.start, self.q_offset + rows.stop
        late = self.causal and columns.stop - 1 > first
        early = self.window is not None and columns.start <= end - 1 - self.window
        if not (late or early):
            return None
        distance = np.arange(first, end)[:, None] - np.arange(columns.start, columns.stop)
        hidden = distance < 0 if self.causal else np.zeros(distance.shape, np.bool_)
        return hidden if self.window is None else hidden | (distance >= self.window)


def _tiles(start: int, stop: int, size: int) -> Iterator[slice]:
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


def _heads(array: ArrayLike, name: str, n_heads: int, head_dim: int) -> NDArray[np.float32]:
    """Give the argument as (rows, n_heads, head_dim) float32."""
    values = np.asarray(array, np.float32)
    if values.ndim != 2 or values.shape[1] != n_heads * head_dim:
        expected = f"(rows, {n_heads * head_dim})"
        raise SelectionError(f"{name} has the wrong shape", field=name, expected=expected, found=values.shape)
    return values.reshape(len(values), n_heads, head_dim)


def _sinks(sinks: ArrayLike | None, num_q_heads: int) -> NDArray[np.float32]:
    """Give the sinks, (num_q_heads,) float32; -inf, which adds nothing, where there are none."""
    if sinks is None:
        return np.full(num_q_heads, -np.inf, np.float32)
    values = np.asarray(sinks, np.float32)
    if values.shape != (num_q_heads,):
        raise SelectionError(
            "sinks has the wrong shape", field="sinks", expected=(num_q_heads,), found=values.shape
        )
    return values


def _check_numbers(
    counts: Mapping[str, int], scale: float, softcap: float | None, window: int | None
) -> None:
    for name, count in counts.items():
        _require(count >= 1, name, "1 or more", count)
    num_q_heads, num_kv_heads = counts["num_q_heads"], counts["num_kv_heads"]
    multiple = f"a multiple of num_kv_heads = {num_kv_heads}"
    _require(num_q_heads % num_kv_heads == 0, "num_q_heads", multiple, num_q_heads)
    _require(math.isfinite(scale), "scale", "a finite number", scale)
    _require(softcap is None or 0 < softcap < math.inf, "softcap", "a positive number", softcap)
    _require(window is None or window >= 1, "window", "1 or more", window)


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise UsageError(f"{name} is out of range", field=name, expected=expected, found=found)
