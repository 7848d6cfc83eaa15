"""Values in a narrower float type, none of which becomes infinite by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UnsupportedError
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import F16, Encoding
from wvindex.formats.finite import count_nonfinite
from wvindex.transform.combine import Cast
from wvindex.transform.rows import TILE_VALUES, Rows, decoded

LOSES_SMALL: Final = (
    "float16 has 6e-8 to 65504: smaller values become 0, a larger one is refused when it is met"
)
"""To be said of an export in float16."""


@dataclass(frozen=True)
class Narrowed:
    """Rows decoded and written in a plain encoding, which must hold every finite value.

    Attributes
    ----------
    rows : Rows
    encoding : Encoding
        F32, F16 or BF16.
    tensor : str
        Which errors name.
    """

    rows: Rows
    encoding: Encoding
    tensor: str

    @property
    def n_rows(self) -> int:
        """As before."""
        return self.rows.n_rows

    @property
    def row_values(self) -> int:
        """As before."""
        return self.rows.row_values

    @property
    def matrix_rows(self) -> int:
        """As before."""
        return self.rows.matrix_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Cast rows [start, stop), tile by tile; a span is cut from whole rows.

        Raises
        ------
        UnsupportedError
            If a finite value is too large for the encoding.
        """
        width = self.encoding.row_bytes(self.row_values)
        left, right = span or (0, width)
        cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        cast = Cast(self.rows, self.encoding)
        tile = max(1, TILE_VALUES // max(self.row_values, 1))
        for first in range(start, stop, tile):
            last = min(first + tile, stop)
            encoded = np.empty((last - first, width), np.uint8)
            cast.read_rows(first, last, encoded.reshape(-1).data)
            if count_nonfinite(encoded, self.encoding)[1]:
                self._require_infinite_before(first, last, encoded)
            cut[first - start : last - start] = encoded[:, left:right]

    def _require_infinite_before(self, first: int, last: int, encoded: NDArray[np.uint8]) -> None:
        values = decoded(self.rows, first, last)
        narrow = np.empty_like(values)
        decode_rows(encoded, self.encoding, narrow)
        lost = np.isfinite(values) & ~np.isfinite(narrow)
        if lost.any():
            raise UnsupportedError(
                f"a value is too large for {self.encoding.name}; give a wider dtype",
                tensor=self.tensor,
                expected="bfloat16 or float32" if self.encoding is F16 else "float32",
                found=float(values[lost][0]),
            )

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""
