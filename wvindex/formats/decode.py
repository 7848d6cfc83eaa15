"""The one way from encoded rows to values, whatever the encoding, and from float32 to plain values."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wvindex.errors import TensorLayoutError, UsageError
from wvindex.formats import kernels
from wvindex.formats.encodings import Encoding
from wvindex.formats.fp8 import decode_fp8, scale_rows_of
from wvindex.formats.ggml import decode_blocks

_TILE_VALUES: Final = 1 << 20
"""Float32 values held between a decoder and a narrower output: 4 MiB."""

_FLOATS: Final = frozenset({np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})


def decode_rows(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    out: NDArray[Any],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
) -> None:
    """Decode encoded rows into `out`.

    Parameters
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
        Little-endian; the last axis contiguous.
    encoding : Encoding
    out : array, shape (n_rows, n_values)
        float32, float16, bfloat16, or the encoding's own dtype; any strides. float32 is narrowed with
        round to nearest even; what is too large becomes infinite.
    scales : array of float32, shape (scale_rows, scale_columns), optional
        For FP8 with scales, as `wvindex.formats.fp8.decode_fp8` takes them. Rows are of one matrix.
    first_row : int
        For FP8 with scales: where the first row stands in its block.

    Raises
    ------
    UndecodableType
        If nobody decodes a packed encoding.
    TensorLayoutError
        If shapes do not belong together, or scales are missing.
    UsageError
        If `out` has another dtype.
    """
    if out.dtype not in _FLOATS and out.dtype != encoding.logical_dtype:
        raise UsageError(f"{encoding.name} cannot be decoded to this dtype", found=out.dtype)
    if encoding.is_plain:
        _copy_plain(raw, encoding, out)
    elif out.dtype == np.float32:
        _decode(raw, encoding, out, scales, first_row)
    else:
        _decode_narrow(raw, encoding, out, scales, first_row)


def encode_plain(values: NDArray[np.float32], encoding: Encoding, out: NDArray[Any]) -> None:
    """Cast float32 values to a plain floating-point encoding, with round to nearest even.

    Parameters
    ----------
    values : array of float32
    encoding : Encoding
        ``F32``, ``F16`` or ``BF16``. What is too large for it becomes infinite.
    out : array of the encoding's dtype, of the same shape
        Filled.

    Raises
    ------
    UsageError
        If `encoding` is none of the three, or `out` has another dtype.
    """
    if encoding.dtype not in _FLOATS or out.dtype != encoding.dtype:
        raise UsageError(
            f"float32 cannot be cast to {encoding.name}", expected=encoding.dtype, found=out.dtype
        )
    if not kernels.narrow(values, out):
        _cast(values, out)


def _cast(values: NDArray[Any], out: NDArray[Any]) -> None:
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


def _copy_plain(raw: NDArray[np.uint8], encoding: Encoding, out: NDArray[Any]) -> None:
    if encoding.dtype is None or raw.shape != (out.shape[0], encoding.row_bytes(out.shape[1])):
        expected = (out.shape[0], encoding.row_bytes(out.shape[1]))
        raise TensorLayoutError(f"rows of {encoding.name}", expected=expected, found=raw.shape)
    if not kernels.decode(raw, encoding, out):
        _cast(raw.view(encoding.dtype), out)


def _decode(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    out: NDArray[np.float32],
    scales: NDArray[np.float32] | None,
    first_row: int,
) -> None:
    if encoding.scale_block is None:
        decode_blocks(raw, encoding, out)
    elif scales is None:
        raise TensorLayoutError("FP8 codes without their scales", found=encoding.name)
    else:
        decode_fp8(raw, scales, encoding, out, first_row=first_row)


def _decode_narrow(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    out: NDArray[Any],
    scales: NDArray[np.float32] | None,
    first_row: int,
) -> None:
    """Decode by a kernel that rounds, or else through a bounded float32 tile of whole rows."""
    if kernels.decode(raw, encoding, out, scales=scales, first_row=first_row):
        return
    n_rows, n_values = out.shape
    tile_rows = max(1, min(n_rows, _TILE_VALUES // max(1, n_values)))
    tile = np.empty((tile_rows, n_values), np.float32)
    for start in range(0, n_rows, tile_rows):
        stop = min(start + tile_rows, n_rows)
        part, offset = scales, 0
        if scales is not None:
            part, offset = scale_rows_of(encoding, scales, first_row + start, first_row + stop)
        _decode(raw[start:stop], encoding, tile[: stop - start], part, offset)
        _cast(tile[: stop - start], out[start:stop])
