"""Products with rows of an array as they are read, a tile at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.matmul import is_fused, matmul_rows
from wvindex.query.spans import block_span
from wvindex.query.tiles import Request, Tile


def multiply(
    spec: ArraySpec,
    reader: RowReader,
    rows: tuple[int, int],
    columns: tuple[int, int],
    x: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Give ``x @ W.T`` for some rows and columns of an array.

    Parameters
    ----------
    spec : ArraySpec
    reader : RowReader
        May be asked from several threads at once.
    rows : (int, int)
        Rows [start, stop) of the array.
    columns : (int, int)
        Values [start, stop) of a row.
    x : array of float32, shape (m, stop - start)
        Contiguous.
    out : array of float32, shape (m, n_rows)
        Filled.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding.
    """
    if not (x.size and out.size):
        out[...] = 0
        return
    span = block_span(spec, *columns)
    inside = (columns[0] - span.values[0], columns[1] - span.values[0])

    def product(tile: Tile, n_threads: int | None) -> None:
        matmul_rows(
            tile.raw,
            spec.encoding,
            x,
            out[:, tile.place],
            scales=tile.scales,
            first_row=tile.first_row,
            columns=inside,
            n_threads=n_threads,
        )

    request = Request(spec, reader, range(*rows), span)
    if is_fused(spec.encoding, len(x)) and inside == (0, span.width):
        request.each(product)
    else:
        for tile in request.ahead():  # BLAS has threads of its own.
            product(tile, None)
