"""Products with encoded rows, which are never decoded as a whole.

One or a few vectors are multiplied by kernels that decode a block and use it at once. Many are multiplied
by BLAS, one decoded tile of rows after another: decoding a tile is little beside multiplying it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import TensorLayoutError, UsageError
from wvindex.formats.blas import one_thread
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import Encoding
from wvindex.formats.fp8 import scale_rows_of
from wvindex.formats.kernels import MAX_VECTORS, decode_parallel, dot_parallel, has_kernel, threads
from wvindex.formats.workers import share

TILE_VALUES: Final = 2 << 20
"""Decoded values that a thread holds, 8 MiB: enough rows for BLAS to run at its full speed."""

ALL_TILES_VALUES: Final = 8 << 20
"""Decoded values that all threads together hold, however many they are: 32 MiB."""

MIN_TILE_VALUES: Final = 1 << 18
"""Fewer are not worth a thread's while."""


@dataclass(frozen=True)
class EncodedMatrix:
    """The rows of a matrix in memory, as they are stored.

    Attributes
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
    encoding : Encoding
    scales : array of float32 or None
        For FP8 with scales.
    first_row : int
        Where the first row stands in its scale block.
    """

    raw: NDArray[np.uint8]
    encoding: Encoding
    scales: NDArray[np.float32] | None = None
    first_row: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are held, scales included."""
        return self.raw.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give ``x @ W.T``, (m, n_rows) float32, for x (m, n_values) float32; raises as `matmul_rows`."""
        out = np.empty((len(x), len(self.raw)), np.float32)
        matmul_rows(self.raw, self.encoding, x, out, scales=self.scales, first_row=self.first_row)
        return out


def matmul_rows(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
    columns: tuple[int, int] | None = None,
    n_threads: int | None = None,
) -> None:
    """Multiply vectors by encoded rows: ``out[:] = x @ W.T``, with W what the rows decode to.

    Parameters
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
        Contiguous within a row.
    encoding : Encoding
    x : array of float32, shape (m, n_values)
    out : array of float32, shape (m, n_rows)
        Filled; its values stand side by side within a row.
    scales, first_row
        For FP8 with scales, as `wvindex.formats.decode.decode_rows` takes them.
    columns : (int, int), optional
        Values [start, stop) of a row that `x` is multiplied by; all by default.
    n_threads : int, optional
        `wvindex.formats.kernels.threads()` if not given. BLAS has its own number.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding.
    TensorLayoutError
        If `raw`, `x` or `scales` does not belong to rows of this length.
    UsageError
        If `x` and `out` do not belong together.
    """
    width = _width(raw, encoding)
    first, last = columns or (0, width)
    if raw.shape[1] != encoding.row_bytes(width) or not 0 <= first <= last <= width:
        raise TensorLayoutError(f"columns of rows of {encoding.name}", expected=width, found=(first, last))
    if x.ndim != 2 or x.shape[1] != last - first:
        raise TensorLayoutError("vectors for rows of values", expected=("m", last - first), found=x.shape)
    if out.shape != (len(x), len(raw)) or out.dtype != np.float32 or x.dtype != np.float32:
        raise UsageError("result of a product", expected=(len(x), len(raw)), found=out.shape)
    if not (x.size and raw.size):
        out[...] = 0
    elif is_fused(encoding, len(x)) and last - first == width:
        dot_parallel(raw, encoding, x, out, scales=scales, first_row=first_row, n_threads=n_threads)
    else:
        _multiply_tiles(_Rows(raw, encoding, scales, first_row), x, out, slice(first, last), n_threads)


def is_fused(encoding: Encoding, n_vectors: int) -> bool:
    """Whether so many vectors are multiplied without decoding a tile."""
    return n_vectors <= MAX_VECTORS and has_kernel(encoding)


@dataclass(frozen=True)
class _Rows:
    """Encoded rows that are decoded range by range."""

    raw: NDArray[np.uint8]
    encoding: Encoding
    scales: NDArray[np.float32] | None
    first_row: int

    def values(
        self, start: int, stop: int, tile: NDArray[np.float32], n_threads: int | None
    ) -> NDArray[np.float32]:
        """Decode rows [start, stop) into `tile`; float32 rows are given where they stand."""
        raw, encoding = self.raw[start:stop], self.encoding
        if encoding.dtype == np.float32:
            return raw.view(np.float32)
        scales, first_row = self.scales, self.first_row
        if scales is not None:
            scales, first_row = scale_rows_of(encoding, scales, first_row + start, first_row + stop)
        values = tile[: stop - start]
        if not decode_parallel(
            raw, encoding, values, scales=scales, first_row=first_row, n_threads=n_threads
        ):
            decode_rows(raw, encoding, values, scales=scales, first_row=first_row)
        return values


def _multiply_tiles(
    rows: _Rows, x: NDArray[np.float32], out: NDArray[np.float32], columns: slice, n_threads: int | None
) -> None:
    """Let each thread decode a tile and multiply by it, by itself; by BLAS's threads where it insists."""
    n_rows, width = len(rows.raw), _width(rows.raw, rows.encoding)
    n_threads = threads() if n_threads is None else n_threads
    share_of_rows = max(MIN_TILE_VALUES, n_rows * width // (2 * n_threads))
    step = min(n_rows, max(1, min(TILE_VALUES, ALL_TILES_VALUES // n_threads, share_of_rows) // width))

    def work(starts: Iterator[int], n_threads: int) -> None:
        tile = np.empty((step, width), np.float32)
        for start in starts:
            stop = min(start + step, n_rows)
            values = rows.values(start, stop, tile, n_threads)
            with np.errstate(all="ignore"):  # Of this thread; infinity and NaN are results like others.
                np.matmul(x, values[:, columns].T, out=out[:, start:stop])

    starts = range(0, n_rows, step)
    if n_threads == 1 or len(starts) == 1:
        work(iter(starts), n_threads)
        return
    with one_thread() as is_one:
        if is_one:
            share(starts, lambda mine: work(mine, 1), n_threads)
        else:
            work(iter(starts), n_threads)


def _width(raw: NDArray[np.uint8], encoding: Encoding) -> int:
    """Give the values of a row."""
    blocks: int = raw.shape[1] // encoding.type_size
    return blocks * encoding.block_size
