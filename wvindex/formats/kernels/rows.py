"""Rows of encoded values through the compiled kernels: decoding, narrowing, and products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from wvindex.errors import TensorLayoutError, UndecodableType, UsageError
from wvindex.formats.encodings import F32, Encoding
from wvindex.formats.fp8 import require_scales
from wvindex.formats.kernels import table
from wvindex.formats.kernels.table import MAX_VECTORS

RowDecoder: TypeAlias = Callable[[NDArray[np.uint8], NDArray[Any]], None]
"""Fills out (n_rows, n_values) from encoded rows (n_rows, row_bytes); both contiguous within a row."""

_FEW_VALUES: Final = 1 << 16
"""Plain values that NumPy converts in less time than numba takes to load."""

STREAM_BYTES: Final = 32 << 20
"""Output that few processors' caches hold."""

# What stands for each output type in the kernels: numba has neither float16 nor bfloat16.
_STAND_INS: Final[dict[np.dtype[Any], np.dtype[Any]]] = {
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float16): np.dtype(np.uint16),
    np.dtype(ml_dtypes.bfloat16): np.dtype(np.int16),
}


def decoder(encoding: Encoding, out_dtype: DTypeLike, *, streaming: bool | None = None) -> RowDecoder | None:
    """Find the kernel that decodes an encoding without further data.

    Parameters
    ----------
    encoding : Encoding
        A packed one, or a float of at most 32 bits.
    out_dtype : dtype
        float32, float16 or bfloat16. Kernels compute in float32; narrower values are rounded to nearest
        even, and what is too large becomes infinite.
    streaming : bool, optional
        Whether float32 goes to memory past the caches; where it gains nothing it is not done. By default
        from `STREAM_BYTES` of output on: what is smaller may be wanted from the caches next.

    Returns
    -------
    callable or None
        ``decode(raw, out)``, which holds no lock of the interpreter; it raises `TensorLayoutError` if the
        arrays do not belong together, or not every row is contiguous. None where there is no kernel,
        where the values are `out_dtype` as they stand, and for FP8 with scales (see `decode_fp8_rows`).
    """
    dtype = np.dtype(out_dtype)
    if dtype not in _STAND_INS or dtype == encoding.dtype:
        return None
    if encoding.scale_block is not None or not table.has_kernel(encoding):
        return None

    def decode(raw: NDArray[np.uint8], out: NDArray[Any]) -> None:
        _require_rows(raw, encoding, out, dtype)
        if out.size:
            past_caches = out.nbytes >= STREAM_BYTES if streaming is None else streaming
            kernel = table.decode_kernel(encoding.name, _manner(encoding, dtype, past_caches))
            n_rows, n_values = out.shape
            flat, stride = _flat(raw, writeable=False)
            target, out_stride = _flat(out)
            kernel(flat, stride, target, out_stride, n_rows, n_values // encoding.block_size)

    return decode


def decode_fp8_rows(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    encoding: Encoding,
    out: NDArray[Any],
    *,
    first_row: int = 0,
) -> None:
    """Decode FP8 codes with scales; as `wvindex.formats.fp8.decode_fp8`, also to 16 bits.

    Parameters
    ----------
    codes, scales, encoding, first_row
        As there.
    out : array of float32, float16 or bfloat16, shape (rows, columns)
        Filled. Products are float32 before they are rounded.

    Raises
    ------
    UndecodableType
        If `encoding` is not FP8 with scales.
    TensorLayoutError
        If the shapes do not belong together, or not every row is contiguous.
    """
    _require_scaled(codes, scales, encoding, first_row)
    _require_rows(codes, encoding, out, out.dtype)
    if out.size:
        kernel = table.scaled_decode_kernel(encoding.name)
        kernel(
            *_flat(codes, writeable=False), *_scaling(scales, encoding, first_row), *_flat(out), *out.shape
        )


def decode(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    out: NDArray[Any],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
    streaming: bool | None = None,
) -> bool:
    """Decode rows by a kernel where one fits.

    Parameters
    ----------
    raw, encoding, out, scales, first_row
        As `wvindex.formats.decode.decode_rows` takes them.
    streaming : bool, optional
        As `decoder` takes it.

    Returns
    -------
    bool
        False, and nothing written, where there is no kernel, where the values within a row of `raw` or
        `out` do not stand side by side, or where so few plain values are not worth a kernel's loading.

    Raises
    ------
    TensorLayoutError
        If the arrays do not belong together.
    """
    if not (_is_fit(raw) and _is_fit(out)) or (encoding.is_plain and out.size < _FEW_VALUES):
        return False
    if encoding.scale_block is not None:
        if scales is None or not table.has_kernel(encoding) or out.dtype not in _STAND_INS:
            return False
        decode_fp8_rows(raw, scales, encoding, out, first_row=first_row)
        return True
    kernel = decoder(encoding, out.dtype, streaming=streaming)
    if kernel is not None:
        kernel(raw, out)
    return kernel is not None


def narrow(values: NDArray[np.float32], out: NDArray[Any]) -> bool:
    """Round contiguous float32 values to float16 or bfloat16, of the same shape.

    Returns
    -------
    bool
        As `decode`.
    """
    if values.dtype != np.float32 or values.shape != out.shape or values.size < _FEW_VALUES:
        return False
    if not (values.flags.c_contiguous and out.flags.c_contiguous):
        return False
    return decode(values.reshape(1, -1).view(np.uint8), F32, out.reshape(1, -1))


def dot(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
) -> None:
    """Multiply encoded rows by one or a few vectors, without ever holding a decoded row.

    Parameters
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
        Contiguous within a row.
    encoding : Encoding
        One that `has_kernel`.
    x : array of float32, shape (n_values,) or (m, n_values)
        m at most `MAX_VECTORS`.
    out : array of float32, shape (n_rows,) or (m, n_rows)
        Filled. Sums of 512 values are float32, those of a row float64: the error is about 1e-7 of the
        sum of the absolute products. Results of several vectors do not depend on each other; of a single
        one, K-quants are multiplied as levels (`table.PRODUCTS`): within the same error, where a weight
        ``d s q - e m`` counts as two products.
    scales, first_row
        For FP8 with scales, as `decode_fp8_rows` takes them.

    Raises
    ------
    UndecodableType
        If there is no kernel for `encoding`.
    TensorLayoutError
        If `raw` or `scales` does not belong to rows of this length, or rows are not contiguous.
    UsageError
        If `x` and `out` do not belong together, or there are too many vectors.
    """
    if not table.has_kernel(encoding):
        raise UndecodableType("no kernel for this encoding", found=encoding.name)
    vectors = np.ascontiguousarray(np.atleast_2d(x), np.float32)
    n_rows, n_values = raw.shape[0], vectors.shape[1]
    _require_vectors(x, out, n_rows)
    if raw.shape != (n_rows, encoding.row_bytes(n_values)) or not _is_fit(raw):
        expected = (n_rows, encoding.row_bytes(n_values))
        raise TensorLayoutError(f"contiguous rows of {encoding.name}", expected=expected, found=raw.shape)
    result = np.zeros((vectors.shape[0], n_rows), np.float32)
    vectors = vectors.view()
    vectors.flags.writeable = False
    flat = _flat(raw, writeable=False) if raw.size else None
    if encoding.scale_block is not None:
        scales = np.empty((0, 0), np.float32) if scales is None else scales
        _require_scaled(raw, scales, encoding, first_row)
        if flat:
            kernel = table.scaled_dot_kernel(encoding.name)
            kernel(*flat, *_scaling(scales, encoding, first_row), vectors, result, n_rows, n_values)
    elif flat and len(vectors) == 1 and encoding.name in table.PRODUCTS:
        kernel = table.product_kernel(encoding.name)
        kernel(*flat, vectors[0], result[0], n_rows, n_values // encoding.block_size)
    elif flat:
        table.dot_kernel(encoding.name)(*flat, vectors, result, n_rows, n_values // encoding.block_size)
    out[...] = result.reshape(out.shape)


def _manner(encoding: Encoding, dtype: np.dtype[Any], past_caches: bool) -> table.Manner:
    if dtype != np.float32:
        return "narrow" if encoding.block_size > 1 else "direct"
    return "stream" if past_caches and encoding.name in table.STREAMED else "direct"


def _require_vectors(x: NDArray[Any], out: NDArray[Any], n_rows: int) -> None:
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] > MAX_VECTORS):
        raise UsageError("vectors to multiply by", expected=f"1 to {MAX_VECTORS}", found=x.shape)
    if out.shape != (*x.shape[:-1], n_rows):
        raise UsageError("result of a product", expected=(*x.shape[:-1], n_rows), found=out.shape)


def _require_scaled(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], encoding: Encoding, first_row: int
) -> None:
    if encoding.name not in table.SCALED:
        raise UndecodableType("not an FP8 encoding", found=encoding.name)
    require_scales(codes, scales, encoding, first_row)


def _require_rows(
    raw: NDArray[np.uint8], encoding: Encoding, out: NDArray[Any], dtype: np.dtype[Any]
) -> None:
    """Check all that the kernels, which check nothing, rely on."""
    if dtype not in _STAND_INS or out.dtype != dtype or raw.dtype != np.uint8:
        raise TensorLayoutError("decoding to another dtype", expected=dtype, found=out.dtype)
    if out.ndim != 2 or raw.shape != (out.shape[0], encoding.row_bytes(out.shape[1])):
        raise TensorLayoutError(f"encoded rows of {encoding.name}", expected=out.shape, found=raw.shape)
    if not (_is_fit(raw) and _is_fit(out) and out.flags.writeable):
        raise TensorLayoutError("rows must be contiguous", found=(raw.strides, out.strides))


def _is_fit(rows: NDArray[Any]) -> bool:
    """Whether the items of each row stand side by side, and the rows one after another."""
    if rows.ndim != 2 or not rows.flags.aligned or rows.dtype.byteorder == ">":
        return False
    if rows.flags.c_contiguous:
        return True
    n_rows, n_items = rows.shape
    between, within = rows.strides
    if n_items > 1 and within != rows.itemsize:
        return False
    return n_rows <= 1 or (between >= n_items * rows.itemsize and between % rows.itemsize == 0)


def _flat(rows: NDArray[Any], *, writeable: bool = True) -> tuple[NDArray[Any], int]:
    """View fitting rows as one flat array from the first item to the last, and the items from row to row.

    Read-only arrays are another type to numba: with all inputs read-only, each kernel is compiled once.
    """
    n_rows, n_items = rows.shape
    stride = rows.strides[0] // rows.itemsize if n_rows > 1 else n_items
    if rows.flags.c_contiguous:
        flat = rows.reshape(-1)
    else:
        flat = as_strided(rows, ((n_rows - 1) * stride + n_items,), (rows.itemsize,))
    flat = flat.view(_STAND_INS.get(rows.dtype, rows.dtype))
    flat.flags.writeable = writeable
    return flat, stride


def _scaling(
    scales: NDArray[np.float32], encoding: Encoding, first_row: int
) -> tuple[NDArray[np.float32], int, int, int]:
    """Give what the kernels take for scales: contiguous and read-only, the block, and the first row."""
    block_rows, block_columns = encoding.scale_block or (1, 1)
    contiguous = np.ascontiguousarray(scales, np.float32).view()
    contiguous.flags.writeable = False
    return contiguous, block_rows, block_columns, first_row
