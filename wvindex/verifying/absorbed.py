r"""Arrays that were computed from the factors of latent attention, beside products in float64.

The formulas are those of `wvindex.transform.mla`; what is checked is the result, head by head:

    W_Q = W_qb diag(g_q) W_qa,   W_K,nope = W_kb,k diag(g_kv) W_ca,   W_V = W_kb,v diag(g_kv) W_ca

each head of Q and K laid out [rope | nope], rotary rows half-split. Rotary rows of K are the
down-projection's own and must be equal; products may differ by float32's rounding, and no more: with
n = rank + 4 operations to an element (the norm's weight, what a family multiplies it by, rounded and applied,
the sum of rank products) and u = 2^-24,

    |found - exact| <= gamma_n |x| . |y| <= gamma_n ||x||_2 ||y||_2,   gamma_n = n u / (1 - n u)

whatever the order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, (3.5);
Cauchy and Schwarz), x being a row of W_b diag(g), y a column of W_a. Half a unit in the last place of what
is stored comes on top. Rounding never exceeds the bound, which so is wide: in a product of rank 1,536 it is
9e-5 of the norms, and hides a change of one weight of W_b by less than about a tenth of itself. A wrong
order, factor, norm or head is orders of magnitude beyond it; and W_qa and W_ca are stored besides, and
compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MLA, ModelConfig
from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.verifying.comparing import Comparison, Difference
from wvindex.verifying.formulas import Unexplained, Unfit, half_split
from wvindex.verifying.source_rows import FP8Scales, cast, comparable, unequal
from wvindex.verifying.witness import Witness, WitnessTensor

Floats = NDArray[np.float64]

COLUMN_TILE: Final = 1 << 10
"""Columns multiplied at once."""

_UNIT: Final = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Half a unit in the last place, relative."""

_LEAST: Final = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}
"""The least positive value."""


@dataclass(frozen=True)
class _Head:
    """One head of an absorbed array, as it should be: exact rows, then products.

    `left` is already multiplied by the norm's weight, and that by the family's own factor.
    """

    first_row: int
    tail: NDArray[Any]
    left: Floats


class Factors:
    """The factors that one absorbed array was made of, decoded by the witness.

    Raises
    ------
    Unexplained, Unfit
        If the entry's sources are not what its key asks for.
    """

    def __init__(self, spec: ArraySpec, config: ModelConfig, witness: Witness, fp8: FP8Scales) -> None:
        module, _, self.kind = spec.key.rpartition(".")
        self.letter = module.rpartition(".")[2].removesuffix("_proj")
        if (
            config.mla is None
            or self.letter not in ("q", "k", "v")
            or len(spec.sources) != _N_SOURCES[self.kind]
        ):
            raise Unexplained("its entry is not that of an absorbed projection")
        self.mla: MLA = config.mla
        self.heads = config.num_attention_heads or 0
        self._witness = witness
        self._fp8 = fp8
        down, norm, self._up = (witness.tensors[name] for name in spec.sources[:3])
        rank = self.mla.q_lora_rank if self.letter == "q" else self.mla.kv_lora_rank
        self.rank = rank or 0
        down_rows = self._down_rows(down)
        self._require(norm, 0, self.rank)
        scale = self.mla.q_lora_scale if self.letter == "q" else self.mla.kv_lora_scale
        self._gamma = self._values(norm).astype(np.float64).ravel() * scale
        right = self._values(witness.tensors[spec.sources[3]] if self.kind == "bias" else down)
        right = right.reshape(right.shape[0], -1) if self.kind == "weight" else right.reshape(-1, 1)
        right = right[down_rows]
        self.right = right[: self.rank]
        tail = right[self.rank :]
        rope = np.arange(len(tail))
        self._tail = tail[half_split(rope)] if self.mla.interleaved_rope else tail

    def _down_rows(self, down: WitnessTensor) -> slice:
        """Give which rows of its tensor the down-projection is: all, or its part of both fused."""
        mla, n_q = self.mla, self.mla.q_lora_rank or 0
        below = mla.kv_lora_rank + mla.qk_rope_head_dim
        if n_q and down.shape[:1] == (n_q + below,):
            return slice(0, n_q) if self.letter == "q" else slice(n_q, n_q + below)
        n_rows = n_q if self.letter == "q" else below
        self._require(down, 0, n_rows)
        return slice(0, n_rows)

    def head_rows(self) -> int:
        """Rows of one head of the array."""
        mla = self.mla
        return mla.v_head_dim if self.letter == "v" else mla.qk_rope_head_dim + mla.qk_nope_head_dim

    def by_head(self) -> Iterator[_Head]:
        """Give each head's rows."""
        empty = self._tail[:0]
        for head in range(self.heads):
            left = self._left(head).astype(np.float64) * self._gamma
            yield _Head(head * self.head_rows(), self._tail if self.letter == "k" else empty, left)

    def _left(self, head: int) -> NDArray[np.float32]:
        """Give a head's rows of the up-projection, (n, rank)."""
        mla, nope = self.mla, self.mla.qk_nope_head_dim
        if len(self._up.shape) == 3:  # llama.cpp's attn_k_b (heads, rank, nope) and attn_v_b (heads, v, rank)
            height = self._up.shape[1]
            matrix = self._rows(self._up, head * height, (head + 1) * height)
            return np.transpose(matrix) if self.letter == "k" else matrix
        if self.letter == "q":
            height = self.head_rows()
            rows = self._rows(self._up, head * height, (head + 1) * height)  # [nope | rope]
            order = np.arange(nope, height)
            order = half_split(order) if mla.interleaved_rope else order
            return np.take(rows, np.concatenate([order, np.arange(nope)]), axis=0)
        height = nope + mla.v_head_dim
        first = head * height + (0 if self.letter == "k" else nope)
        return self._rows(self._up, first, first + (nope if self.letter == "k" else mla.v_head_dim))

    def _values(self, tensor: WitnessTensor) -> NDArray[np.float32]:
        if len(tensor.shape) < 2:
            width = tensor.shape[0] if tensor.shape else 1
            raw = self._witness.read(tensor.name, width, 0, 1)
            return comparable(self._witness.decode(tensor.name, raw)).astype(np.float32).ravel()
        return self._rows(tensor, 0, tensor.shape[0])

    def _rows(self, tensor: WitnessTensor, start: int, stop: int) -> NDArray[np.float32]:
        return decoded_rows(tensor, start, stop, self._witness, self._fp8)

    def _require(self, tensor: WitnessTensor, axis: int, size: int) -> None:
        if len(tensor.shape) <= axis or tensor.shape[axis] != size:
            raise Unfit(f"{size} along axis {axis}", f"{tensor.name} of shape {list(tensor.shape)}")


_N_SOURCES: Final = {"weight": 3, "bias": 4}
"""Down-projection, norm, up-projection; and the down-projection's bias."""


def decoded_rows(
    tensor: WitnessTensor, start: int, stop: int, witness: Witness, fp8: FP8Scales
) -> NDArray[np.float32]:
    """Decode rows [start, stop) of a matrix or a stack, float32, FP8 codes times their scales."""
    width, height = tensor.shape[-1], tensor.shape[-2]
    raw = witness.read(tensor.name, width, start, stop)
    values = comparable(witness.decode(tensor.name, raw)).astype(np.float32)
    scales = fp8.of(tensor.name)
    if scales is not None:
        values *= fp8.spread(scales, height, np.arange(start, stop), width)
    return values


def compare_absorbed(spec: ArraySpec, stored: RowReader, factors: Factors) -> Comparison:
    """Compare an absorbed projection with float64 products, head by head and column tile by column tile."""
    found = Comparison()
    width = factors.right.shape[1]
    expected_shape = (factors.heads * factors.head_rows(), width)
    shape = spec.shape if factors.kind == "weight" else (*spec.shape, 1)
    if shape != expected_shape:
        raise Unfit(str(list(expected_shape)), f"{spec.key} of shape {list(spec.shape)}")
    column_norms = np.sqrt(np.einsum("ij,ij->j", factors.right, factors.right, dtype=np.float64))
    worst = _Worst(spec, factors)
    for head in factors.by_head():
        values = _stored_head(spec, stored, head.first_row, factors.head_rows())
        n_tail = len(head.tail)
        worst.exact(head.first_row, values[:n_tail], cast(head.tail, spec.encoding))
        for first in range(0, width, COLUMN_TILE):
            columns = slice(first, first + COLUMN_TILE)
            with np.errstate(all="ignore"):
                exact = head.left @ factors.right[:, columns].astype(np.float64)
            norms = np.sqrt(np.einsum("ij,ij->i", head.left, head.left))
            bound = np.outer(norms, column_norms[columns])
            worst.close(head.first_row + n_tail, first, values[n_tail:, columns], exact, bound)
    if worst.difference is not None:
        found.differences.append(worst.difference)
    return found


def compare_joined(
    spec: ArraySpec, stored: RowReader, config: ModelConfig, witness: Witness, fp8: FP8Scales
) -> Comparison:
    """Compare a ``kv_b_proj`` that was joined of llama.cpp's parts: each head's K, transposed, then its V."""
    mla = config.mla
    if mla is None or len(spec.sources) != 2:
        raise Unexplained("its entry is not that of a joined up-projection")
    keys, values = (witness.tensors[name] for name in spec.sources)
    rank, nope, v = mla.kv_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim
    heads = config.num_attention_heads or 0
    for tensor, shape in ((keys, (heads, rank, nope)), (values, (heads, v, rank))):
        if tensor.shape != shape:
            raise Unfit(str(list(shape)), f"{tensor.name} of shape {list(tensor.shape)}")
    found, worst = Comparison(), _Worst(spec, None)
    for head in range(heads):
        parts = (
            decoded_rows(keys, head * rank, (head + 1) * rank, witness, fp8).T,
            decoded_rows(values, head * v, (head + 1) * v, witness, fp8),
        )
        first = head * (nope + v)
        exact = cast(np.concatenate(parts), spec.encoding)
        worst.exact(first, _stored_head(spec, stored, first, nope + v), exact)
    if worst.difference is not None:
        found.differences.append(worst.difference)
    return found


def _stored_head(spec: ArraySpec, stored: RowReader, first: int, n_rows: int) -> NDArray[Any]:
    """Read rows of the array (values of a bias) as NumPy and ml_dtypes see them, (n_rows, width)."""
    encoding = spec.encoding
    if len(spec.shape) > 1:
        raw = np.empty((n_rows, spec.row_bytes), np.uint8)
        stored.read_rows(first, first + n_rows, raw.reshape(-1).data)
    else:
        raw = np.empty((n_rows, encoding.type_size), np.uint8)
        span = (first * encoding.type_size, (first + n_rows) * encoding.type_size)
        stored.read_rows(0, 1, raw.reshape(-1).data, span=span)
    return comparable(raw.view(encoding.logical_dtype))


class _Worst:
    """Counts the values that are not as they should be, and keeps the first."""

    def __init__(self, spec: ArraySpec, factors: Factors | None) -> None:
        self._spec = spec
        n = factors.rank + 4 if factors is not None else 0
        self._gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
        self._n = n
        self.difference: Difference | None = None

    def exact(self, first_row: int, found: NDArray[Any], expected: NDArray[Any]) -> None:
        """Take rows that must be equal."""
        self._keep(first_row, 0, unequal(found, expected), found, expected, "")

    def close(self, first_row: int, column: int, found: NDArray[Any], exact: Floats, norms: Floats) -> None:
        """Take rows that may differ by rounding; `norms` are ||x|| ||y|| of each value."""
        name = self._spec.encoding.name
        largest = float(np.finfo(np.float32).max) if name != "F16" else 65504.0
        with np.errstate(all="ignore"):
            bound = self._gamma * norms + self._n * _LEAST["F32"]
            bound = bound * (1 + _UNIT[name]) + _UNIT[name] * np.abs(exact) + _LEAST[name]
            differ = ~(np.abs(found.astype(np.float64) - exact) <= bound)
            # Beyond the largest value, and where a factor is not finite, only that can be asked for.
            beyond = ~np.isfinite(exact) | (np.abs(exact) + bound >= largest)
            differ &= ~(beyond & ~np.isfinite(found))
        self._keep(first_row, column, differ, found, exact, " by more than float32's rounding")

    def _keep(
        self,
        first_row: int,
        column: int,
        differ: NDArray[np.bool_],
        found: NDArray[Any],
        expected: NDArray[Any],
        how: str,
    ) -> None:
        count = int(np.count_nonzero(differ))
        if not count:
            return
        if self.difference is None:
            row, place = (int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape))
            self.difference = Difference(
                "source_values",
                0,
                int(np.prod(self._spec.shape, dtype=object)),
                first_row + row,
                column + place,
                str(expected[row, place]),
                f"{found[row, place]}{how}",
                ", ".join(self._spec.sources),
            )
        self.difference.count += count
