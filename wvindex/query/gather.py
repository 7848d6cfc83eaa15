"""Reads and decodes rows of an array into a result: the bytes that it needs, over all cores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats import kernels
from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.decode import decode_rows
from wvindex.formats.kernels.rows import STREAM_BYTES
from wvindex.query.indexing import Positions, covering, relative
from wvindex.query.memory import new_array
from wvindex.query.spans import BlockSpan, block_span, bytes_of
from wvindex.query.tiles import Request, Tile

TILE_VALUES: Final = 2 << 20
"""Decoded values that a thread holds where a result takes some columns of them only: 8 MiB."""


def read_raw(spec: ArraySpec, reader: RowReader, start: int, stop: int, span: BlockSpan) -> NDArray[np.uint8]:
    """Read the encoded blocks of rows [start, stop); shape (rows, bytes of the span)."""
    raw = new_array((stop - start, span.nbytes), np.uint8, spec, reader, (start, stop))
    if not raw.size:
        return raw
    if span.nbytes == spec.row_bytes:
        Request(spec, reader, range(start, stop), span).read_into(raw)
    else:
        reader.read_rows(start, stop, bytes_of(raw), span=span.data)
    return raw


def gather(
    spec: ArraySpec, reader: RowReader, rows: Positions, columns: Positions, out: NDArray[Any]
) -> None:
    """Decode the given rows and columns of an array into `out`, over all cores where they are many.

    Parameters
    ----------
    spec : ArraySpec
    reader : RowReader
        May be asked from several threads at once.
    rows : range or array of int64
        Strictly ascending; a range has a step of 1.
    columns : range or array of int64
    out : array, shape (rows, columns)
        Filled. Of a dtype that `wvindex.formats.decode.decode_rows` gives.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding.
    """
    if not out.size:
        return
    span = block_span(spec, *covering(columns))
    takes_all = isinstance(columns, range) and columns.step == 1 and len(columns) == span.width
    request = Request(spec, reader, rows, span)
    is_plain = spec.encoding.is_plain and out.dtype == spec.encoding.dtype
    if is_plain and takes_all and request.reads_span_only and out.flags.c_contiguous:
        request.read_into(out.view(np.uint8))
    elif takes_all:
        streaming = out.nbytes >= STREAM_BYTES
        request.each(lambda tile, n: _decode(spec, tile, out[tile.place], n, streaming))
    else:
        take = relative(columns, span.values[0])

        def decode_and_take(tile: Tile, n_threads: int | None) -> None:
            for part in _parts(spec, tile, max(TILE_VALUES // span.width, 1)):
                shape = (len(part.raw), span.width)
                values = new_array(shape, out.dtype, spec, reader, request.covered)
                _decode(spec, part, values, n_threads, False)
                out[part.place] = values[:, take]

        request.each(decode_and_take)


def _parts(spec: ArraySpec, tile: Tile, n_rows: int) -> Iterator[Tile]:
    """Cut a tile to at most `n_rows` rows each: what is decoded of it at once."""
    block = spec.encoding.scale_block
    for start in range(0, len(tile.raw), n_rows):
        raw = tile.raw[start : start + n_rows]
        first = tile.place.start + start
        place = slice(first, first + len(raw))
        if block is None or tile.scales is None:
            yield Tile(place, raw)
        else:
            above, first_row = divmod(tile.first_row + start, block[0])
            below = above - (-(first_row + len(raw)) // block[0])
            yield Tile(place, raw, tile.scales[above:below], first_row)


def _decode(spec: ArraySpec, tile: Tile, out: NDArray[Any], n_threads: int | None, streaming: bool) -> None:
    """Decode a tile, by a kernel where there is one."""
    scaling: dict[str, Any] = {"scales": tile.scales, "first_row": tile.first_row}
    if n_threads == 1:
        done = kernels.decode(tile.raw, spec.encoding, out, streaming=streaming, **scaling)
    else:
        done = kernels.decode_parallel(tile.raw, spec.encoding, out, n_threads=n_threads, **scaling)
    if not done:
        decode_rows(tile.raw, spec.encoding, out, **scaling)
