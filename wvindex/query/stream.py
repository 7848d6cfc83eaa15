"""Values of an array in small tiles, decoded in the processor's caches and handed on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats import kernels
from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import Encoding
from wvindex.formats.fp8 import scale_rows_of
from wvindex.query.spans import block_span
from wvindex.query.tiles import Request, Tile

STREAM_VALUES: Final = 1 << 18
"""Values of a tile: 1 MiB of float32 is still in the caches when it is looked at, and worth its calls."""

_FEW_VALUES: Final = 1 << 16
"""Plain values that NumPy converts in less time than a kernel takes to load."""

Values = NDArray[np.float32] | NDArray[np.float64]
"""What every weight is, exactly: float32, or float64 where float32 does not hold what is stored."""

Consumer = Callable[[int, Values], None]
"""Called with a tile's first row and its values (n_rows, n_columns), which are its own until it returns."""

Encoded = Callable[[int, NDArray[np.uint8]], None]
"""Called with a tile's first row and its rows as they are stored (n_rows, bytes), likewise."""

_WIDE: Final = frozenset({"F64", "I64", "I32", "U64", "U32"})
"""Encodings whose values float32 does not hold."""


def value_dtype(encoding: Encoding) -> np.dtype[np.float32] | np.dtype[np.float64]:
    """Give the dtype in which values are streamed: float64 for what float32 does not hold, else float32."""
    return np.dtype(np.float64) if encoding.name in _WIDE else np.dtype(np.float32)


def stream(
    spec: ArraySpec,
    reader: RowReader,
    rows: tuple[int, int],
    columns: tuple[int, int],
    consume: Consumer,
    encoded: Encoded | None = None,
) -> None:
    """Hand every value to `consume`, a tile of whole rows at a time, in any order and from several threads.

    Parameters
    ----------
    spec : ArraySpec
    reader : RowReader
        May be asked from several threads at once.
    rows : (int, int)
        Rows [start, stop) of the array; those of a tile are counted from `start`.
    columns : (int, int)
        Values [start, stop) of a row.
    consume : callable
        The tiles are the same however many threads there are.
    encoded : callable, optional
        Also called, with the blocks that hold these values: of larger tiles, each before its values.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding.
    """
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return
    span = block_span(spec, *columns)
    inside = slice(columns[0] - span.values[0], columns[1] - span.values[0])
    is_whole = inside == slice(0, span.width)

    def each(tile: Tile, n_threads: int | None) -> None:
        if encoded is not None:
            encoded(tile.place.start, tile.raw)
        for first, values in decoded_pieces(tile, spec.encoding, span.width):
            part: NDArray[Any] = values if is_whole else np.ascontiguousarray(values[:, inside])
            consume(first, part)

    Request(spec, reader, range(*rows), span).each(each)


def decoded_pieces(tile: Tile, encoding: Encoding, width: int) -> Iterator[tuple[int, Values]]:
    """Decode a tile of encoded rows piece by piece, into one buffer; values that need no decoding stay."""
    n_rows, dtype = len(tile.raw), value_dtype(encoding)
    step = max(min(STREAM_VALUES // width, n_rows), 1)
    as_stored = encoding.is_plain and encoding.dtype == dtype
    buffer: Values = np.empty((0 if as_stored else step, width), dtype)
    decode = _decoder(encoding, n_rows * width)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        raw = tile.raw[start:stop]
        if as_stored:
            stored: NDArray[Any] = np.ascontiguousarray(raw).view(dtype)
            yield tile.place.start + start, stored
            continue
        scales, first_row = tile.scales, tile.first_row
        if scales is not None:
            scales, first_row = scale_rows_of(encoding, scales, first_row + start, first_row + stop)
        decode(raw, buffer[: stop - start], scales, first_row)
        yield tile.place.start + start, buffer[: stop - start]


def _decoder(encoding: Encoding, n_values: int) -> Callable[..., None]:
    """Give what decodes rows of a tile; a kernel where there is one, and it is worth its loading."""
    stored = encoding.dtype
    if stored is not None and value_dtype(encoding) == np.float64:

        def widen(raw: NDArray[np.uint8], out: Values, scales: object, first_row: int) -> None:
            out[...] = np.ascontiguousarray(raw).view(stored)

        return widen
    is_many = n_values >= _FEW_VALUES or not encoding.is_plain
    kernel = kernels.decoder(encoding, np.float32, streaming=False) if is_many else None
    if kernel is not None:
        return lambda raw, out, scales, first_row: kernel(raw, out)
    return lambda raw, out, scales, first_row: decode_rows(
        raw, encoding, out, scales=scales, first_row=first_row
    )
