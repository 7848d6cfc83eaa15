"""Rows of a tensor gone through in turn, by the thread that asks: several tensors can be, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.query.spans import block_span
from wvindex.query.stream import Values, decoded_pieces
from wvindex.query.tiles import Request, Run


@dataclass(frozen=True)
class Pieces:
    """The rows of a tensor, all dimensions but the last flattened.

    Attributes
    ----------
    spec : ArraySpec
        Of the array.
    reader : RowReader
        May be asked from several threads at once.
    rows : (int, int)
        Rows [start, stop) of the array; here they are counted from `start`.
    columns : (int, int)
        Values [start, stop) of a row.
    """

    spec: ArraySpec
    reader: RowReader
    rows: Run
    columns: tuple[int, int]

    @property
    def n_rows(self) -> int:
        """Rows."""
        return self.rows[1] - self.rows[0]

    @property
    def runs(self) -> list[Run]:
        """Ranges of rows that are read at once: they end where chunks do."""
        return [] if self._is_empty else self._request(0, self.n_rows).runs

    def values(self, start: int, stop: int) -> Iterator[tuple[int, Values]]:
        """Give rows [start, stop) decoded, as `Tensor.stream` does: first rows, and values.

        Values are overwritten once the next are asked for.

        Raises
        ------
        UndecodableType
            If nobody decodes the encoding.
        """
        if start >= stop or self._is_empty:
            return
        request = self._request(start, stop)
        span = request.span
        inside = slice(self.columns[0] - span.values[0], self.columns[1] - span.values[0])
        is_whole = inside == slice(0, span.width)
        for tile in request.in_turn():
            for first, values in decoded_pieces(tile, self.spec.encoding, span.width):
                part: NDArray[Any] = values if is_whole else np.ascontiguousarray(values[:, inside])
                yield start + first, part

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Give rows [start, stop) as they are stored: first rows, and bytes of all blocks of the columns."""
        if start < stop and not self._is_empty:
            yield from ((start + tile.place.start, tile.raw) for tile in self._request(start, stop).in_turn())

    @property
    def _is_empty(self) -> bool:
        return self.rows[0] >= self.rows[1] or self.columns[0] >= self.columns[1]

    def _request(self, start: int, stop: int) -> Request:
        rows = range(self.rows[0] + start, self.rows[0] + stop)
        return Request(self.spec, self.reader, rows, block_span(self.spec, *self.columns))
