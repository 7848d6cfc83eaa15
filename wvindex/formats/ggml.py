"""Decoding of GGML's packed blocks to float32, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats import kernels
from wvindex.formats.encodings import ENCODINGS, Encoding

BlockDecoder: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.float32]], None]
"""Fills out (n_blocks, block_size) from blocks (n_blocks, type_size); both C-contiguous."""

TILE_VALUES: Final = 1 << 18
"""Values decoded at once. The gguf package makes temporaries of 12 to 22 bytes a value, so a tile costs at
most 6 MiB beside the output; larger tiles leave the cache at half the speed, smaller ones pay for calls."""


def decode_blocks(raw: NDArray[np.uint8], encoding: Encoding, out: NDArray[np.float32]) -> None:
    """Decode rows of packed blocks.

    Parameters
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
    encoding : Encoding
        A packed one.
    out : array of float32, shape (n_rows, n_values)
        Filled; any strides.

    Raises
    ------
    UndecodableType
        If nobody decodes this encoding.
    TensorLayoutError
        If the shapes of `raw` and `out` do not belong together.
    """
    _require_rows(raw, encoding, out)
    if kernels.decode(raw, encoding, out):
        return
    decoder = _decoder(encoding.name)
    if decoder is None:
        raise UndecodableType("no decoder for this block type", found=encoding.name)
    block, size = encoding.block_size, encoding.type_size
    with np.errstate(all="ignore"):
        for rows, run in tile_slices(out.shape[0], out.shape[1] // block, TILE_VALUES // block):
            packed = raw[rows, run.start * size : run.stop * size]
            values = out[rows, run.start * block : run.stop * block]
            target = values if values.flags.c_contiguous else np.empty(values.shape, np.float32)
            decoder(np.ascontiguousarray(packed).reshape(-1, size), target.reshape(-1, block))
            if target is not values:
                values[...] = target


def can_decode(encoding: Encoding) -> bool:
    """Whether `decode_blocks` knows the packed `encoding`."""
    return kernels.has_kernel(encoding) or _decoder(encoding.name) is not None


def _require_rows(raw: NDArray[np.uint8], encoding: Encoding, out: NDArray[np.float32]) -> None:
    expected = (out.shape[0], encoding.row_bytes(out.shape[1]))
    if raw.shape != expected:
        raise TensorLayoutError(f"encoded rows of {encoding.name}", expected=expected, found=raw.shape)


def tile_slices(n_rows: int, row_units: int, tile_units: int) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of (n_rows, row_units) into tiles of at most `tile_units`.

    Tiles are of whole rows where a row fits, else of runs within a row.

    Yields
    ------
    (slice, slice)
        Rows, and units of each of them.
    """
    if not row_units:
        return
    tile_rows = max(1, tile_units // row_units)
    tile_width = min(row_units, tile_units)
    for row in range(0, n_rows, tile_rows):
        for unit in range(0, row_units, tile_width):
            yield slice(row, min(row + tile_rows, n_rows)), slice(unit, min(unit + tile_width, row_units))


@cache
def _decoder(name: str) -> BlockDecoder | None:
    """Find the decoder of a type: our own where there is one, else the gguf package's."""
    return DECODERS.get(name) or _package_decoder(name)


def _package_decoder(name: str) -> BlockDecoder | None:
    """Wrap the gguf package's decoder; None if the package has none or lays the blocks out otherwise."""
    import gguf
    from gguf.quants import dequantize

    kind: Any = gguf.GGMLQuantizationType.__members__.get(name)
    encoding = ENCODINGS.get(name)
    if kind is None or encoding is None:
        return None
    if gguf.GGML_QUANT_SIZES[kind] != (encoding.block_size, encoding.type_size):
        return None
    try:
        dequantize(np.zeros((1, encoding.type_size), np.uint8), kind)
    except NotImplementedError:
        return None

    def decode(blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        # As one long row: the package loops in Python over groups of 16 rows.
        out[...] = dequantize(blocks.reshape(1, -1), kind).reshape(out.shape)

    return decode


def _half(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float32]:
    """The float16 at `offset` of each block, as a float32 column (n_blocks, 1)."""
    return blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32)


def _levels(packed: NDArray[np.uint8], bits: int) -> NDArray[np.float32]:
    """Unpack `bits`-wide levels, lowest bits first: (n, n_bytes) -> (n, n_bytes * 8 / bits)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return levels.reshape(packed.shape[0], -1).astype(np.float32)


def _decode_q1_0(blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Half d, then 128 bits: d where the bit is set, else -d."""
    np.multiply(_levels(blocks[:, 2:], 1) * 2 - 1, _half(blocks, 0), out=out)


def _decode_q2_0(blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Half d, then 64 pairs of bits q: d * (q - 1)."""
    np.multiply(_levels(blocks[:, 2:], 2) - 1, _half(blocks, 0), out=out)


def _decode_q8_1(blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Half d, half s (d times the sum, for dot products only), then 32 int8 q: d * q."""
    np.multiply(blocks[:, 4:].view(np.int8).astype(np.float32), _half(blocks, 0), out=out)


def _decode_q8_k(blocks: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Float d, then 256 int8 q, then 16 int16 sums (for dot products only): d * q."""
    d = blocks[:, :4].copy().view("<f4")
    np.multiply(blocks[:, 4:260].view(np.int8).astype(np.float32), d, out=out)


DECODERS: Final[dict[str, BlockDecoder]] = {
    "Q1_0": _decode_q1_0,
    "Q2_0": _decode_q2_0,
    "Q8_1": _decode_q8_1,
    "Q8_K": _decode_q8_k,
}
"""Decoders that stand before the gguf package's: types it lacks, and faster kernels. Layouts as ggml's
``dequantize_row_*`` and ``block_*`` (ggml-quants.c, ggml-common.h) have them."""
