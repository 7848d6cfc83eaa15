"""Ways to read a RowReader piecewise, and to compare the pieces with the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.transform.rows import Rows


def read_all(rows: Rows) -> NDArray[np.uint8]:
    """Read every row at once: (n_rows, row_bytes)."""
    return read_part(rows, 0, rows.n_rows)


def read_part(rows: Rows, start: int, stop: int, span: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read rows [start, stop), or a span of bytes of each, into a buffer that was full of something else."""
    width = span[1] - span[0] if span else rows.encoding.row_bytes(rows.row_values)
    out = np.full((stop - start, width), 0xA5, np.uint8)
    rows.read_rows(start, stop, out.reshape(-1).data, span=span)
    return out


def values(rows: Rows, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Read plain rows as what they are."""
    assert rows.encoding.dtype is not None
    raw = np.ascontiguousarray(read_all(rows))
    return raw.view(rows.encoding.dtype).reshape(shape or (rows.n_rows, rows.row_values))


def check_part(rows: Rows, whole: NDArray[np.uint8], data: st.DataObject) -> None:
    """Draw a part of the rows and of their columns, and compare it with the same part of the whole."""
    n, width = whole.shape
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    size = rows.encoding.type_size
    blocks = width // size
    first = data.draw(st.integers(0, blocks))
    last = data.draw(st.integers(first, blocks))
    np.testing.assert_array_equal(read_part(rows, start, stop), whole[start:stop])
    span = (first * size, last * size)
    np.testing.assert_array_equal(read_part(rows, start, stop, span), whole[start:stop, span[0] : span[1]])
