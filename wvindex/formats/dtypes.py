"""bfloat16 and FP8 as Zarr v3 data types, under the names of the zarr-extensions registry.

zarr-python 3.1 reads the ``zarr.data_type`` entry points but never loads them, so `register_data_types`
must be called there before such an array is opened; later versions find the classes by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    SupportsFloat,
    SupportsIndex,
    cast,
    overload,
)

import ml_dtypes
import numpy as np
import zarr.dtype
import zarr.errors
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.dtype import ZDType, data_type_registry

from wvindex.errors import UnsupportedError

if TYPE_CHECKING:
    from zarr.core.common import JSON, ZarrFormat
    from zarr.core.dtype.common import DTypeJSON

# What tells the registry to try the next type. It moved from one to the other between zarr 3.1 and 3.4.
_NoMatch: type[Exception] = (
    getattr(zarr.errors, "DataTypeValidationError", None) or zarr.dtype.DataTypeValidationError
)

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, kw_only=True)
class _MLFloat(ZDType[np.dtype[np.generic], np.generic], HasItemSize):
    """A floating-point type of ml_dtypes, little-endian in memory."""

    _native: ClassVar[np.dtype[Any]]

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[Any]) -> Self:
        if dtype == cls._native:
            return cls()
        raise _NoMatch(f"{dtype} is not {cls._zarr_v3_name}")

    def to_native_dtype(self) -> np.dtype[np.generic]:
        return self._native

    @classmethod
    def _from_json_v2(cls, data: DTypeJSON) -> Self:
        raise _NoMatch(f"{data!r}: {cls._zarr_v3_name} has no Zarr v2 name")

    @classmethod
    def _from_json_v3(cls, data: DTypeJSON) -> Self:
        if data == cls._zarr_v3_name:
            return cls()
        raise _NoMatch(f"{data!r} is not {cls._zarr_v3_name}")

    @overload
    def to_json(self, zarr_format: Literal[2]) -> NoReturn: ...

    @overload
    def to_json(self, zarr_format: Literal[3]) -> str: ...

    def to_json(self, zarr_format: ZarrFormat) -> str:
        if zarr_format != 3:
            raise UnsupportedError(f"{self._zarr_v3_name} is a Zarr v3 data type", found=zarr_format)
        return self._zarr_v3_name

    @property
    def item_size(self) -> int:
        return self._native.itemsize

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, SupportsFloat | SupportsIndex)

    def cast_scalar(self, data: object) -> np.generic:
        if not self._check_scalar(data):
            raise TypeError(f"{data!r} is not a number, for {self._zarr_v3_name}")
        return self._scalar(float(cast(SupportsFloat, data)))

    def default_scalar(self) -> np.generic:
        return self._scalar(0.0)

    def _scalar(self, value: float) -> np.generic:
        return cast(np.generic, self._native.type(value))

    def _hex(self, value: np.generic) -> str:
        return "0x" + value.tobytes()[::-1].hex()

    def from_json_scalar(self, data: JSON, *, zarr_format: ZarrFormat) -> np.generic:
        """Read a fill value: a number, ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, or hexadecimal bits."""
        if isinstance(data, int | float) and not isinstance(data, bool):
            return self._scalar(float(data))
        if isinstance(data, str) and data in _SPECIAL:
            return self._scalar(_SPECIAL[data])
        if isinstance(data, str) and data.startswith("0x") and len(data) == 2 + 2 * self.item_size:
            return cast(np.generic, np.frombuffer(bytes.fromhex(data[2:])[::-1], self._native)[0])
        raise TypeError(f"{data!r} is not a fill value of {self._zarr_v3_name}")

    def to_json_scalar(self, data: object, *, zarr_format: ZarrFormat) -> JSON:
        """Write a fill value; a NaN with bits of its own as hexadecimal."""
        scalar = data if isinstance(data, self._native.type) else self.cast_scalar(data)
        value = float(scalar)
        if math.isnan(value):
            bits = self._hex(scalar)
            return "NaN" if bits == self._hex(self._scalar(math.nan)) else bits
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


@dataclass(frozen=True, kw_only=True)
class BFloat16(_MLFloat, HasEndianness):
    """The upper half of a float32."""

    _native = np.dtype(ml_dtypes.bfloat16)
    dtype_cls = type(_native)
    _zarr_v3_name = "bfloat16"

    def to_native_dtype(self) -> np.dtype[np.generic]:
        """Give the ml_dtypes dtype, in the byte order that a ``bytes`` codec asks for."""
        return cast(np.dtype[np.generic], self._native.newbyteorder(self.endianness))


@dataclass(frozen=True, kw_only=True)
class Float8E4M3FN(_MLFloat):
    """FP8 with 4 exponent bits: no infinity, NaN, largest value 448."""

    _native = np.dtype(ml_dtypes.float8_e4m3fn)
    dtype_cls = type(_native)
    _zarr_v3_name = "float8_e4m3fn"


@dataclass(frozen=True, kw_only=True)
class Float8E5M2(_MLFloat):
    """FP8 with 5 exponent bits: infinities, NaN, largest finite value 57344."""

    _native = np.dtype(ml_dtypes.float8_e5m2)
    dtype_cls = type(_native)
    _zarr_v3_name = "float8_e5m2"


def register_data_types() -> None:
    """Make the three types known to zarr-python; as often as one likes.

    A type that zarr-python or another package has registered under the same name is left in place.
    """
    for cls in (BFloat16, Float8E4M3FN, Float8E5M2):
        if cls._zarr_v3_name not in data_type_registry.contents:
            data_type_registry.register(cls._zarr_v3_name, cls)
