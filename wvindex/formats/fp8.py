"""Decoding of FP8 codes that share float32 scales by blocks (DeepSeek-V3's ``weight_scale_inv``)."""

from __future__ import annotations

from functools import cache
from typing import Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats.encodings import Encoding

_TILE_VALUES: Final = 1 << 18
"""Codes looked up at once; NumPy's ``take`` widens them to 8-byte indices, so 2 MiB of memory."""

_DTYPES: Final[dict[str, type]] = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def decode_fp8(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    encoding: Encoding,
    out: NDArray[np.float32],
    *,
    first_row: int = 0,
) -> None:
    """Decode rows of one matrix: ``out[i, j] = float32(codes[i, j]) * scale`` of its block.

    Parameters
    ----------
    codes : array of uint8, shape (rows, columns)
    scales : array of float32, shape (ceil((first_row + rows) / block_rows), ceil(columns / block_columns))
        The last row and column of blocks may be short. Only those that the rows need.
    encoding : Encoding
        ``F8_E4M3`` or ``F8_E5M2`` with a `scale_block` of (block_rows, block_columns).
    out : array of float32, shape (rows, columns)
        Filled. NaN codes stay NaN.
    first_row : int
        Where the first row stands in its block, from 0 to block_rows - 1.

    Raises
    ------
    UndecodableType
        If `encoding` is not FP8 with scales.
    TensorLayoutError
        If the shapes do not belong together.
    """
    from wvindex.formats.kernels import decode  # It takes `require_scales` from here.

    table = _code_values(encoding.name)
    block_rows, block_columns = require_scales(codes, scales, encoding, first_row)
    if out.shape != codes.shape:
        raise TensorLayoutError("decoded rows", expected=codes.shape, found=out.shape)
    if decode(codes, encoding, out, scales=scales, first_row=first_row):
        return
    n_rows, n_columns = codes.shape
    tile_rows = max(1, _TILE_VALUES // max(1, n_columns))
    with np.errstate(all="ignore"):
        for i, scale in enumerate(scales):
            column_scale = np.repeat(scale, block_columns)[:n_columns]
            top = max(0, i * block_rows - first_row)
            bottom = min(n_rows, (i + 1) * block_rows - first_row)
            for start in range(top, bottom, tile_rows):
                rows = slice(start, min(start + tile_rows, bottom))
                np.multiply(table[codes[rows]], column_scale, out=out[rows])


def scale_rows_of(
    encoding: Encoding, scales: NDArray[np.float32], start: int, stop: int
) -> tuple[NDArray[np.float32], int]:
    """Give the rows of `scales` that rows [start, stop) of a matrix need, and `start`'s place in the first.

    Raises
    ------
    UndecodableType
        If `encoding` has no scale block.
    """
    if encoding.scale_block is None:
        raise UndecodableType("FP8 without a block of scales", found=encoding.name)
    block_rows = encoding.scale_block[0]
    return scales[start // block_rows : -(-stop // block_rows)], start % block_rows


@cache
def _code_values(name: str) -> NDArray[np.float32]:
    """Give the float32 value of each of the 256 codes."""
    if name not in _DTYPES:
        raise UndecodableType("not an FP8 encoding", found=name)
    values = np.arange(256, dtype=np.uint8).view(_DTYPES[name]).astype(np.float32)
    values.setflags(write=False)
    return values


def require_scales(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], encoding: Encoding, first_row: int
) -> tuple[int, int]:
    """Check that `scales` covers `codes` exactly; arguments as `decode_fp8` takes them.

    Returns
    -------
    (int, int)
        Rows and columns of a scale block.

    Raises
    ------
    UndecodableType
        If `encoding` has no scale block.
    TensorLayoutError
        If the shapes do not belong together.
    """
    if encoding.scale_block is None:
        raise UndecodableType("FP8 without a block of scales", found=encoding.name)
    block_rows, block_columns = encoding.scale_block
    if not 0 <= first_row < block_rows:
        raise TensorLayoutError(
            "first row in its scale block", expected=f"0..{block_rows - 1}", found=first_row
        )
    n_rows, n_columns = codes.shape
    blocks = -(-(first_row + n_rows) // block_rows) if n_rows else scales.shape[0]
    expected = (blocks, -(-n_columns // block_columns))
    if scales.shape != expected:
        raise TensorLayoutError("FP8 scales", expected=expected, found=scales.shape)
    return block_rows, block_columns
