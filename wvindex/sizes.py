"""Sizes in bytes and shapes, as people write them and as they read them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from wvindex.errors import UsageError

_DECIMAL: Final = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BINARY: Final = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SHORT: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNITS: Final = {"": 1, "b": 1} | _DECIMAL | _BINARY | _SHORT
_SIZE: Final = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_size(text: int | str) -> int:
    """Read a number of bytes.

    Parameters
    ----------
    text : int or str
        Bytes, or a number with a unit: ``B``, ``kB MB GB TB`` (powers of 1000), ``KiB MiB GiB TiB``
        (powers of 1024); ``K M G T`` alone are powers of 1024. Case does not matter.

    Returns
    -------
    int
        Bytes; a fraction of a byte is dropped.

    Raises
    ------
    UsageError
        If `text` is no size, or is negative.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise UsageError("a size cannot be negative", expected="0 or more bytes", found=text)
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError("this is no size", expected="a number of bytes, or such as '512MiB'", found=text)
    # Decimal, not float: a size with many digits stays exact.
    return int(Decimal(match[1]) * _UNITS[match[2].lower()])


def format_size(n: int) -> str:
    """Write a number of bytes for people: ``512 B``, ``1.5 KiB``, ``4.0 GiB``."""
    if n < 0:
        raise UsageError("a size cannot be negative", expected="0 or more bytes", found=n)
    if n < 1 << 10:
        return f"{n} B"
    value = n / (1 << 10)
    for unit in ("KiB", "MiB", "GiB"):
        if round(value, 1) < 1 << 10:
            return f"{value:.1f} {unit}"
        value /= 1 << 10
    return f"{value:.1f} TiB"


def bits_per_weight(nbytes: int, count: int) -> float:
    """Give stored bits, scales included, for each of `count` values; NaN where there are none."""
    return 8 * nbytes / count if count else math.nan


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape: ``4x256x256``, or ``scalar``."""
    return "x".join(map(str, shape)) or "scalar"
