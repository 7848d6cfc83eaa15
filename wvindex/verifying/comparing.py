"""An array's stored rows beside the source's, as another package reads and decodes them, tile by tile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UndecodableType
from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.decode import decode_rows
from wvindex.formats.workers import share
from wvindex.verifying.formulas import Rows
from wvindex.verifying.source_rows import FP8Scales, SourceRows, cast, comparable, unequal

TILE_VALUES: Final = 1 << 19
"""Values compared at once by each thread. The gguf package makes temporaries of up to 22 bytes a value."""


@dataclass
class Difference:
    """How an array differs from its source.

    Attributes
    ----------
    kind : {"source_bytes", "source_values"}
    count, total : int
        Rows (of bytes) or values that differ, and how many there are.
    row, column : int
        Of the first, in the array's rows; of a vector the value.
    expected, found : str
        What stands there.
    source : str
        The tensor and the row of it that the first should be.
    """

    kind: str
    count: int
    total: int
    row: int
    column: int
    expected: str
    found: str
    source: str


@dataclass
class Comparison:
    """What a comparison of one array found; `undecodable` says why values were not compared."""

    differences: list[Difference] = field(default_factory=list)
    undecodable: str | None = None


def compare_rows(spec: ArraySpec, stored: RowReader, source: SourceRows, n_threads: int) -> Comparison:
    """Compare an array that is a choice of its source's rows, cast or not.

    Bytes are compared where they should be the source's, and what they mean in any case: decoded by wvindex
    on one side, by the witness on the other.
    """
    comparing = _RowComparison(spec, stored, source)
    share(comparing.tiles(), comparing.work, n_threads)
    return comparing.result()


class _RowComparison:
    """Compares tiles; several threads work at once."""

    def __init__(self, spec: ArraySpec, stored: RowReader, source: SourceRows) -> None:
        self._spec = spec
        self._stored = stored
        self._source = source
        self._width = source.recipe.width
        self._is_copy = spec.exactness in ("bit", "reordered")
        self._found: dict[str, list[tuple[int, int, str, str, int]]] = {"bytes": [], "values": []}
        self._undecodable: str | None = None
        self._lock = threading.Lock()
        self._scales = self._stored_scales()

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Give ranges of rows; of FP8 with scales they begin with a scale block and end with a matrix."""
        n_rows = self._source.recipe.n_rows if 0 not in self._spec.shape else 0
        step = max(TILE_VALUES // max(self._width, 1), 1)
        block = self._spec.encoding.scale_block
        group = self._spec.matrix_rows if block is not None else max(n_rows, 1)
        if block is not None:
            step = max(step // block[0], 1) * block[0]
        for first in range(0, n_rows, group):
            for start in range(first, first + group, step):
                yield start, min(start + step, first + group)

    def work(self, tiles: Iterator[tuple[int, int]]) -> None:
        """Compare tiles one after another."""
        for start, stop in tiles:
            raw = self._read(start, stop)
            values = self._decode(start, raw)
            for part, place, rows in self._source.pieces(start, stop):
                self._compare(
                    part, start + place.start, rows, raw[place], None if values is None else values[place]
                )

    def result(self) -> Comparison:
        """Say what differs: bytes, or, if they are the same, values; and the scales of FP8."""
        found = Comparison(undecodable=self._undecodable)
        kind = "bytes" if self._found["bytes"] else "values"
        if self._found[kind]:
            found.differences.append(self._difference(kind))
        found.differences += self._scale_differences()
        return found

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        encoding = self._spec.encoding
        row_bytes = encoding.row_bytes(self._width)
        raw = np.empty((stop - start, row_bytes), np.uint8)
        if len(self._spec.shape) > 1:
            self._stored.read_rows(start, stop, raw.reshape(-1).data)
        else:
            span = (start * row_bytes, stop * row_bytes)
            self._stored.read_rows(0, 1, raw.reshape(-1).data, span=span)
        return raw

    def _decode(self, start: int, raw: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Decode stored rows as wvindex does for its users; None where it cannot."""
        encoding = self._spec.encoding
        values = np.empty((len(raw), self._width), encoding.logical_dtype)
        scales = None
        if encoding.scale_block is not None and self._scales is not None:
            matrix, inside = divmod(start, self._spec.matrix_rows)
            first = inside // encoding.scale_block[0]
            per_matrix = self._scales.reshape(self._spec.n_matrices, -1, self._scales.shape[1])
            scales = per_matrix[matrix, first : first - (-len(raw) // encoding.scale_block[0])]
        try:
            decode_rows(raw, encoding, values, scales=scales)
        except UndecodableType as error:
            self._undecodable = f"wvindex cannot decode {error.found}"
            return None
        return comparable(values)

    def _compare(
        self, part: int, start: int, rows: Rows, stored: NDArray[np.uint8], values: NDArray[Any] | None
    ) -> None:
        raw = self._source.raw(part, rows)
        if self._is_copy:
            if raw.shape != stored.shape:
                self._keep("bytes", start, 0, f"{raw.shape[1]} bytes", f"{stored.shape[1]} bytes", len(raw))
                return
            differ = (raw != stored).any(axis=1) if not np.array_equal(raw, stored) else np.zeros(0, np.bool_)
            if differ.any():
                row = int(np.argmax(differ))
                column = int(np.argmax(raw[row] != stored[row]))
                wanted, got = (one[row, column : column + 8].tobytes().hex() for one in (raw, stored))
                self._keep("bytes", start + row, column, wanted, got, int(differ.sum()))
                return
        if values is not None:
            self._compare_values(part, start, rows, raw, values)

    def _compare_values(
        self, part: int, start: int, rows: Rows, raw: NDArray[np.uint8], values: NDArray[Any]
    ) -> None:
        try:
            expected = self._source.decode(part, rows, raw)
        except UndecodableType as error:
            self._undecodable = f"{error.message.replace('this type', str(error.found))}"
            return
        if not self._is_copy:
            expected = cast(expected, self._spec.encoding, self._source.recipe.subtract)
        differ = unequal(values, expected)
        if differ.any():
            row, column = (int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape))
            wanted, got = (str(one[row, column]) for one in (expected, values))
            self._keep("values", start + row, column, wanted, got, int(differ.sum()))

    def _keep(self, kind: str, row: int, column: int, expected: str, found: str, count: int) -> None:
        with self._lock:
            self._found[kind].append((row, column, expected, found, count))

    def _difference(self, kind: str) -> Difference:
        row, column, expected, found, _ = min(self._found[kind])
        part, inside = self._source.where(row)
        recipe = self._source.recipe
        total = recipe.n_rows if kind == "bytes" else recipe.n_rows * recipe.width
        return Difference(
            f"source_{kind}",
            sum(count for *_, count in self._found[kind]),
            total,
            row,
            column,
            expected,
            found,
            f"{recipe.sources[part].name}[{inside}]",
        )

    def _stored_scales(self) -> NDArray[np.float32] | None:
        shape = self._spec.scale_shape
        if shape is None:
            return None
        scales = np.empty(shape, np.float32)
        if scales.size:
            self._stored.read_scales(0, shape[0], scales.reshape(-1).view(np.uint8).data)
        return scales

    def _scale_differences(self) -> Iterator[Difference]:
        block = self._spec.encoding.scale_block
        if self._scales is None or block is None or not self._scales.size:
            return
        height = self._spec.matrix_rows
        starts = np.arange(0, height, block[0])
        first_rows = np.add.outer(np.arange(self._spec.n_matrices) * height, starts).ravel()
        expected = self._source.block_scales(first_rows)
        if expected.shape != self._scales.shape:
            shapes = (str(list(expected.shape)), str(list(self._scales.shape)))
            yield Difference("source_bytes", 1, 1, 0, 0, *shapes, "scales")
            return
        differ = unequal(self._scales, expected)
        if differ.any():
            row, column = (int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape))
            part, _ = self._source.where(int(first_rows[row]))
            yield Difference(
                "source_bytes",
                int(differ.sum()),
                differ.size,
                int(first_rows[row]),
                column * block[1],
                f"scale {expected[row, column]}",
                f"scale {self._scales[row, column]}",
                self._source.recipe.sources[part].name + FP8Scales.SUFFIX,
            )
