"""Rows of an array of a store, or of a part of one."""

from __future__ import annotations

from dataclasses import dataclass

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.encodings import Encoding


@dataclass(frozen=True)
class StoredRows:
    """Rows of an array of a store, or of a part of one; `wvindex.transform.rows.Rows`.

    Attributes
    ----------
    spec : ArraySpec
        Of the part.
    reader : RowReader
        Of the whole array.
    first : int
        The array's row where the part begins; of a vector, its value.
    """

    spec: ArraySpec
    reader: RowReader
    first: int = 0

    @property
    def encoding(self) -> Encoding:
        """The array's."""
        return self.spec.encoding

    @property
    def n_rows(self) -> int:
        """Of the part."""
        return self.spec.n_rows

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return self.spec.row_values

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix."""
        return self.spec.matrix_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) of the part."""
        if len(self.spec.shape) > 1 or (not self.first and span is None):
            self.reader.read_rows(self.first + start, self.first + stop, out, span=span)
            return
        offset = self.first * self.encoding.type_size
        left, right = span or (0, self.spec.row_bytes)
        self.reader.read_rows(start, stop, out, span=(offset + left, offset + right))

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Read scale rows [start, stop) of the part, which begins with a block."""
        block = self.encoding.scale_block
        first = self.first // block[0] if block else 0
        self.reader.read_scales(first + start, first + stop, out)
