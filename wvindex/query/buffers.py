"""What a caller brings: the dtype that is asked for, a buffer to fill, numbers to multiply with."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from wvindex.errors import SelectionError, UsageError
from wvindex.formats.arrays import ArraySpec

_DTYPES: Final = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

_REAL_KINDS: Final = "biufV"
"""Of NumPy's dtypes; V is ml_dtypes' (and that of structures, which do not convert)."""


def value_dtype(spec: ArraySpec, dtype: DTypeLike | None) -> np.dtype[Any]:
    """Give the dtype to read an array's values as: its own, where none is asked for.

    Raises
    ------
    UsageError
        If it is neither float32, float16, bfloat16 nor the array's own.
    """
    own = spec.encoding.logical_dtype
    if dtype is None:
        return own
    try:
        wanted = _DTYPES[dtype] if isinstance(dtype, str) and dtype in _DTYPES else np.dtype(dtype)
    except (TypeError, ValueError):
        wanted = None
    if wanted is None or (wanted != own and wanted not in _DTYPES.values()):
        raise UsageError(
            "values cannot be read as this dtype",
            tensor=spec.key,
            expected=f"{', '.join(_DTYPES)} or {own}",
            found=dtype if wanted is None else wanted,
        )
    return wanted


def require_buffer(spec: ArraySpec, out: object, shape: tuple[int, ...], dtype: DTypeLike | None) -> None:
    """Check that values of a shape and a dtype (None: the buffer's) fit into a caller's buffer.

    Raises
    ------
    SelectionError
        If it has another shape.
    UsageError
        If it is no array, has another dtype, or is read-only.
    """
    if not isinstance(out, np.ndarray):
        found = type(out).__name__
        raise UsageError("the buffer is no array", tensor=spec.key, expected="a numpy.ndarray", found=found)
    if out.shape != shape:
        raise SelectionError("the buffer has another shape", tensor=spec.key, expected=shape, found=out.shape)
    wanted = value_dtype(spec, out.dtype if dtype is None else dtype)
    if out.dtype != wanted:
        raise UsageError("the buffer has another dtype", tensor=spec.key, expected=wanted, found=out.dtype)
    if not out.flags.writeable:
        raise UsageError(
            "the buffer is read-only", tensor=spec.key, expected="a writable array", found="a read-only one"
        )


def real_numbers(spec: ArraySpec, x: object) -> NDArray[np.float32]:
    """Take what an array is multiplied with as float32.

    Raises
    ------
    UsageError
        If it is no array of real numbers.
    """
    try:
        values = np.asarray(x)
        if values.dtype.kind in _REAL_KINDS:
            return values.astype(np.float32, copy=False)
        found: object = values.dtype
    except (TypeError, ValueError) as error:
        found = error
    raise UsageError("x is no array of numbers", tensor=spec.key, expected="real numbers", found=found)


def require_distinct(spec: ArraySpec, out: NDArray[Any]) -> None:
    """Refuse a buffer whose values share memory; along each axis it must step over all of the inner ones."""
    inner = out.itemsize
    axes = zip(out.strides, out.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in axes if length > 1):
        if stride < inner and out.size:
            raise UsageError(
                "values of the buffer share memory", tensor=spec.key, expected=inner, found=out.strides
            )
        inner = stride * (length - 1) + inner
