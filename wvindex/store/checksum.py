"""CRC-32C (Castagnoli, RFC 3720) of chunks."""

from __future__ import annotations

from collections.abc import Iterable

Buffer = bytes | bytearray | memoryview
"""Bytes in memory, one after another; a memoryview is of bytes and has one dimension."""


def crc32c(parts: Iterable[Buffer], value: int = 0) -> int:
    """Give the checksum of `parts`, one after another, going on from `value`.

    Long parts are summed without the interpreter's lock: several threads at once are as many times as fast.
    """
    from crc32c import crc32c as extend  # its package asks importlib.metadata for its version, which is slow

    for part in parts:
        value = extend(part, value)
    return value
