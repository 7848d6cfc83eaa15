"""Finds values that are not finite, or may not be: one pass, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_BYTES = 1 << 16
"""What NumPy looks through in less time than numba takes to load."""


def count_suspects(blocks: NDArray[np.uint8], tests: NDArray[np.int64]) -> int:
    """Count the blocks that meet every test of any group.

    Parameters
    ----------
    blocks : array of uint8, shape (n_blocks, type_size)
        Contiguous.
    tests : array of int64, shape (n_tests, 4)
        Rows ``offset, mask, at_least, ends_group``: met where ``block[offset] & mask >= at_least``. The
        tests of a group stand together; its last has ``ends_group`` 1.
    """
    flat = blocks.reshape(-1).view()
    flat.flags.writeable = False
    return int(_suspects_kernel()(flat, blocks.shape[1], tests))


def largest_magnitude(bits: NDArray[np.unsignedinteger[Any]], magnitude: int) -> int:
    """Give the largest of ``value & magnitude``; 0 where there is no value.

    Parameters
    ----------
    bits : array of unsigned integers
        Contiguous.
    magnitude : int
        A mask that fits the integers.
    """
    flat = bits.reshape(-1).view()
    flat.flags.writeable = False
    return int(_largest_kernel()(flat, bits.dtype.type(magnitude), bits.dtype.type(0)))


@cache
def _suspects_kernel() -> Callable[..., Any]:
    from wvindex.formats.kernels._factory import compiled

    def suspects(raw: Any, type_size: int, tests: Any) -> int:
        count = 0
        for start in range(0, raw.size, type_size):
            found = False
            met = True
            for i in range(tests.shape[0]):
                met = met and (raw[start + tests[i, 0]] & tests[i, 1]) >= tests[i, 2]
                if tests[i, 3]:
                    found = found or met
                    met = True
            count += found
        return count

    return compiled(suspects, "suspects")


@cache
def _largest_kernel() -> Callable[..., Any]:
    from wvindex.formats.kernels._factory import compiled

    def largest(bits: Any, magnitude: Any, least: Any) -> Any:
        found = least
        for i in range(bits.size):
            found = max(found, bits[i] & magnitude)
        return found

    return compiled(largest, "largest_magnitude")
