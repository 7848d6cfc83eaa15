"""CRC-32C (Castagnoli, RFC 3720) of chunks."""

from __future__ import annotations

from collections.abc import Iterable

import google_crc32c
import numpy as np

Buffer = bytes | bytearray | memoryview
"""Bytes in memory, one after another; a memoryview is of bytes and has one dimension."""


def crc32c(parts: Iterable[Buffer], value: int = 0) -> int:
    """Give the checksum of `parts`, one after another, going on from `value`."""
    for part in parts:
        # The C extension takes arrays, but no memoryview.
        value = google_crc32c.extend(value, np.frombuffer(part, dtype=np.uint8) if len(part) else b"")
    return value
