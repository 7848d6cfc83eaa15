"""Stacks of experts that a source lays out in another way, beside the same worked out in plain NumPy.

Three transforms change more than which row stands where; what they mean is written here from the formats'
definitions, and shares no code with the build:

- ``join_mxfp4``: codes (experts, out, in / 32, 16) and exponents (experts, out, in / 32), which become GGML's
  blocks: the exponent, then 16 bytes with value i in the low half of byte i, value i + 16 in the high one.
- ``transpose``: (experts, in, out) becomes (experts, out, in).
- ``deinterleave``: of gate and up, which take turns along `out`, every other one. Of biases, (experts, out).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.decode import decode_rows
from wvindex.verifying.comparing import TILE_VALUES, Comparison, Difference
from wvindex.verifying.formulas import Unexplained, Unfit
from wvindex.verifying.source_rows import FP8Scales, cast, comparable, unequal
from wvindex.verifying.witness import Witness, WitnessTensor

JOINED_MXFP4: Final = "join_mxfp4"
TRANSPOSED: Final = "transpose"
DEINTERLEAVED: Final = "deinterleave"

LAID_OUT: Final = frozenset({JOINED_MXFP4, TRANSPOSED, DEINTERLEAVED})
"""Transforms that are compared here."""

E2M1: Final = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float64)
"""Magnitudes of a four-bit float (OCP Microscaling Formats 1.0, section 5.3.3); its high bit is the sign."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Tile:
    """Rows of an array as they should be: their number, values, and bytes where these are told."""

    row: int
    values: NDArray[Any]
    raw: Bytes | None = None


class _Stack:
    """The source of one array, expert by expert.

    Raises
    ------
    Unexplained, Unfit
        If the entry's source is not what its transforms ask for.
    """

    def __init__(self, spec: ArraySpec, witness: Witness, fp8: FP8Scales) -> None:
        self.spec, self.witness, self.fp8 = spec, witness, fp8
        self.tensor = witness.tensors[spec.sources[0]]
        self.is_packed = JOINED_MXFP4 in spec.transforms
        self.is_transposed = TRANSPOSED in spec.transforms
        self.is_bias = spec.key.endswith(".bias")
        self.rows = spec.shape[1] if len(spec.shape) > 1 else 0
        self.step, self.first = 1, 0
        if DEINTERLEAVED in spec.transforms:
            module = spec.key.rpartition(".")[0].rpartition(".")[2]
            if module not in ("gate_proj", "up_proj"):
                raise Unexplained(f"no independent formula for the turns of {module}")
            self.step, self.first = 2, ("gate_proj", "up_proj").index(module)
        self._require(self.tensor, self._shape())
        if self.is_packed:
            name = self.tensor.name.removesuffix("_blocks") + "_scales"
            if name not in witness.tensors:
                raise Unfit(f"exponents in {name}", "no such tensor")
            self.exponents = witness.tensors[name]
            self._require(self.exponents, self._shape()[:-1])

    def _shape(self) -> tuple[int, ...]:
        """Give the shape that the source must have."""
        count, out = self.spec.shape[0], self.rows * self.step
        if self.is_bias:
            return count, out
        width = self.spec.shape[2]
        if self.is_packed:
            return count, out, width // 32, 16
        return (count, width, out) if self.is_transposed else (count, out, width)

    def _require(self, tensor: WitnessTensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise Unfit(str(list(shape)), f"{tensor.name} of shape {list(tensor.shape)}")

    def tiles(self) -> Iterator[_Tile]:
        """Give all rows; of biases a row is an expert's."""
        for expert in range(self.spec.shape[0]):
            if self.is_bias:
                values = self._plain(self.rows * self.step, expert, expert + 1)
                yield _Tile(expert, values[:, self.first :: self.step])
            elif self.is_transposed:
                yield self._turned(expert)
            else:
                yield from self._straight(expert)

    def _turned(self, expert: int) -> _Tile:
        width, out = self.spec.shape[2], self.rows * self.step
        matrix = self._plain(out, expert * width, (expert + 1) * width)
        return _Tile(expert * self.rows, matrix.T[self.first :: self.step])

    def _straight(self, expert: int) -> Iterator[_Tile]:
        width = self.spec.shape[2]
        tile = max(TILE_VALUES // max(width, 1), 1)
        base = expert * self.rows * self.step
        for start in range(0, self.rows, tile):
            stop = min(start + tile, self.rows)
            places = (base + start * self.step, base + stop * self.step)
            row = expert * self.rows + start
            if not self.is_packed:
                yield _Tile(row, self._plain(width, *places)[self.first :: self.step])
                continue
            codes = self.witness.read(self.tensor.name, width // 2, *places)[self.first :: self.step]
            powers = self.witness.read(self.exponents.name, width // 32, *places)[self.first :: self.step]
            yield _Tile(row, _values(codes, powers), _blocks(codes, powers))

    def _plain(self, width: int, start: int, stop: int) -> NDArray[Any]:
        raw = self.witness.read(self.tensor.name, width, start, stop)
        values = comparable(self.witness.decode(self.tensor.name, raw))
        scales = self.fp8.of(self.tensor.name)
        if scales is None:
            return values
        rows = np.arange(start, stop, dtype=np.int64)
        return values * self.fp8.spread(scales, self.tensor.shape[-2], rows, width)


def _codes(raw: Bytes) -> Bytes:
    """Give one code a byte, (rows, blocks, 32), for rows of two a byte, the low half first."""
    pairs = np.stack([raw % 16, raw // 16], axis=-1)
    return pairs.reshape(len(raw), -1, 32)


def _values(raw: Bytes, powers: Bytes) -> NDArray[np.float32]:
    codes = _codes(raw)
    signed = np.where(codes >= 8, -E2M1[codes % 8], E2M1[codes % 8])
    values = signed * np.exp2(powers.astype(np.float64) - 127)[:, :, None]
    with np.errstate(over="ignore"):
        return values.astype(np.float32).reshape(len(raw), -1)


def _blocks(raw: Bytes, powers: Bytes) -> Bytes:
    codes = _codes(raw)
    halves = codes[:, :, :16] + 16 * codes[:, :, 16:]
    return np.concatenate([powers[:, :, None], halves], axis=2, dtype=np.uint8).reshape(len(raw), -1)


def compare_experts(spec: ArraySpec, stored: RowReader, witness: Witness, fp8: FP8Scales) -> Comparison:
    """Compare an array, tile by tile: its bytes where they are blocks, its values in any case.

    Raises
    ------
    Unexplained, Unfit
        If the entry does not say how the array follows from its source, or the source cannot be that.
    """
    if len(spec.sources) != 1 or len(spec.shape) != (2 if spec.key.endswith(".bias") else 3):
        raise Unexplained("its entry is not that of a stack of experts")
    found, stack = Comparison(), _Stack(spec, witness, fp8)
    first: Difference | None = None
    for tile in stack.tiles():
        raw, values = _read(spec, stored, tile)
        is_copy = spec.encoding.name == "MXFP4"
        expected = tile.values if is_copy else cast(tile.values, spec.encoding)
        for kind, one, other in (("bytes", raw, tile.raw if is_copy else None), ("values", values, expected)):
            if other is None:
                continue
            if one.shape != other.shape:
                raise Unfit(str(list(other.shape)), f"{spec.key} of shape {list(spec.shape)}")
            differ = unequal(one, other)
            if differ.any():
                first = _counted(first, spec, tile, kind, differ, one, other)
                break
    found.differences += [first] if first is not None else []
    return found


def _read(spec: ArraySpec, stored: RowReader, tile: _Tile) -> tuple[Bytes, NDArray[Any]]:
    """Read stored rows, and decode them as wvindex does for its users."""
    n_rows, width = tile.values.shape
    raw = np.empty((n_rows, spec.encoding.row_bytes(width)), np.uint8)
    stored.read_rows(tile.row, tile.row + n_rows, raw.reshape(-1).data)
    values = np.empty((n_rows, width), spec.encoding.logical_dtype)
    decode_rows(raw, spec.encoding, values)
    return raw, comparable(values)


def _counted(
    known: Difference | None,
    spec: ArraySpec,
    tile: _Tile,
    kind: str,
    differ: NDArray[np.bool_],
    found: NDArray[Any],
    expected: NDArray[Any],
) -> Difference:
    """Count what differs in a tile, and keep the first of all."""
    count = int(np.count_nonzero(differ.any(axis=1) if kind == "bytes" else differ))
    if known is not None:
        known.count += count
        return known
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape))
    total = spec.n_rows if kind == "bytes" else int(np.prod(spec.shape, dtype=object))
    return Difference(
        f"source_{kind}",
        count,
        total,
        tile.row + row,
        column,
        str(expected[row, column]),
        str(found[row, column]),
        spec.sources[0],
    )
