"""Random weights that every NumPy on every machine remakes bit for bit.

Only the raw 64-bit stream of PCG64 is used, which NumPy keeps stable for ever (NEP 19), and arithmetic that
IEEE 754 fixes: `Generator.standard_normal` may change between releases and goes through the C library's log.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Multiples of 2**-20 with bfloat16's eight significant bits are float16 values as well, so the F32, BF16 and
# F16 forms of a checkpoint hold the same numbers.
_GRID = np.float32(2.0**20)


def raw_uint16(seed: int, name: str, count: int) -> npt.NDArray[np.uint16]:
    """Give `count` uniform 16-bit integers that belong to `seed` and `name` alone."""
    stream = np.random.PCG64([seed, zlib.crc32(name.encode())])
    words = np.asarray(stream.random_raw(-(-count // 4)), dtype="<u8")
    return words.view("<u2")[:count]


def bell(seed: int, name: str, shape: tuple[int, ...], std: float) -> Array:
    """Give bell-shaped bfloat16 values: the sum of four uniform numbers, scaled to `std`."""
    count = math.prod(shape)
    sums = raw_uint16(seed, name, 4 * count).reshape(count, 4).sum(axis=1, dtype=np.int64) - 2 * 65535
    unit = sums.astype(np.float32) * np.float32(math.sqrt(3.0) / 65536.0)
    return _on_grid(unit * np.float32(std), _GRID).reshape(shape)


def flat(seed: int, name: str, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Give bfloat16 values spread evenly over [low, high].

    They are multiples of 2**-10, so adding one, as Gemma's GGUF files do, and taking it away again is exact.
    """
    unit = raw_uint16(seed, name, math.prod(shape)).astype(np.float32) * np.float32(1.0 / 65535.0)
    return _on_grid(np.float32(low) + unit * np.float32(high - low), np.float32(2.0**10)).reshape(shape)


def _on_grid(values: npt.NDArray[np.float32], grid: np.float32) -> Array:
    rounded: Array = (np.rint(values * grid) / grid).astype(BFLOAT16)
    return rounded
