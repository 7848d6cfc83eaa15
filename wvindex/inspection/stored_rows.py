"""The rows of tensors that are stored, as transforms take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wvindex.formats.encodings import F32, Encoding
from wvindex.query.lazy import Tensor
from wvindex.query.pieces import Pieces
from wvindex.transform.combine import Cast
from wvindex.transform.rows import Rows


@dataclass(frozen=True)
class StoredRows:
    """The rows of a tensor, as transforms take them."""

    pieces: Pieces

    @property
    def encoding(self) -> Encoding:
        """The tensor's."""
        return self.pieces.spec.encoding

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return self.pieces.n_rows

    @property
    def row_values(self) -> int:
        """The last dimension."""
        return self.pieces.spec.row_values

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix; of a view, all of them."""
        return min(self.pieces.spec.matrix_rows, self.n_rows)

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop)."""
        first = self.pieces.rows[0]
        self.pieces.reader.read_rows(first + start, first + stop, out, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Read rows of its scales; a view begins with a scale block."""
        block = self.encoding.scale_block
        first = self.pieces.rows[0] // block[0] if block else 0
        self.pieces.reader.read_scales(first + start, first + stop, out)


def plain_rows(tensor: Tensor) -> Rows:
    """Give the rows of a matrix, or the values of a vector a row each, in float32."""
    pieces, block = tensor.pieces(), tensor.scale_block
    if tensor.ndim == 1 or (block is not None and pieces.rows[0] % block[0]):
        return _Decoded(tensor)
    return Cast(StoredRows(pieces), F32)


class _Decoded:
    """A vector's values, a row each; or the rows of a view that begins within a scale block."""

    encoding = F32

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.n_rows = self.matrix_rows = len(tensor)
        self.row_values = 1 if tensor.ndim == 1 else tensor.shape[1]

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop)."""
        left, right = span or (0, F32.row_bytes(self.row_values))
        values = np.ascontiguousarray(self._tensor.read(rows=(start, stop), dtype=np.float32))
        out[:] = values.view(np.uint8).reshape(stop - start, -1)[:, left:right].tobytes()

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Decoded values have no scales."""
