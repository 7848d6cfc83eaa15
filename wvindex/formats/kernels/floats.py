"""Plain floats as blocks of one value, and FP8 codes that share a float32 scale by blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wvindex.formats.kernels._factory import Kernel, compiled, inline
from wvindex.formats.kernels._intrinsics import (
    from_bits,
    from_e4m3,
    from_e5m2,
    from_half,
    load_u8,
    load_u16,
    load_u32,
    put,
)


@inline
def f32(raw: Any, at: int, out: Any, to: int) -> None:
    """A float32."""
    put(out, to, from_bits(load_u32(raw, at)))


@inline
def f16(raw: Any, at: int, out: Any, to: int) -> None:
    """A float16."""
    put(out, to, from_half(load_u16(raw, at)))


@inline
def bf16(raw: Any, at: int, out: Any, to: int) -> None:
    """A bfloat16: the upper half of a float32."""
    put(out, to, from_bits(load_u16(raw, at) << 16))


@inline
def f8_e4m3(raw: Any, at: int, out: Any, to: int) -> None:
    """An E4M3FN of the OCP 8-bit floating point specification: no infinities."""
    put(out, to, from_e4m3(load_u8(raw, at)))


@inline
def f8_e5m2(raw: Any, at: int, out: Any, to: int) -> None:
    """An E5M2 of the OCP 8-bit floating point specification."""
    put(out, to, from_e5m2(load_u8(raw, at)))
