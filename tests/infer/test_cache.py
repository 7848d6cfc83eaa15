"""A cache gives back all rows that were stored, and only whole forward passes change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.errors import UsageError
from wvindex.infer.cache import KVCache


def rows(start: int, n: int, width: int) -> NDArray[np.float32]:
    return np.arange(start * width, (start + n) * width, dtype=np.float32).reshape(n, width)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_rows_come_back_in_order_however_they_were_cut(sizes: list[int]) -> None:
    cache = KVCache(2)
    for n in sizes:
        for layer in (0, 1):
            k, v = cache.store(layer, rows(cache.length, n, 3), -rows(cache.length, n, 5))
            np.testing.assert_array_equal(k, rows(0, cache.length + n, 3))
            np.testing.assert_array_equal(v, -rows(0, cache.length + n, 5))
        cache.advance(n)
    assert cache.length == sum(sizes)


def test_rows_that_were_not_advanced_over_are_replaced() -> None:
    cache = KVCache(1)
    cache.store(0, rows(0, 4, 2), rows(0, 4, 2))
    cache.advance(4)
    cache.store(0, rows(50, 100, 2), rows(50, 100, 2))
    k, _ = cache.store(0, rows(4, 2, 2), rows(4, 2, 2))
    np.testing.assert_array_equal(k, rows(0, 6, 2))


def test_growing_copies_seldom() -> None:
    cache, buffers = KVCache(1), set()
    for at in range(1000):
        k, _ = cache.store(0, rows(at, 1, 2), rows(at, 1, 2))
        cache.advance(1)
        buffers.add(k.__array_interface__["data"][0])
    assert len(buffers) <= 6


def test_rows_of_another_width_are_refused() -> None:
    cache = KVCache(1)
    cache.store(0, rows(0, 4, 2), rows(0, 4, 2))
    cache.advance(4)
    with pytest.raises(UsageError, match=r"expected: width 2, found: 3"):
        cache.store(0, rows(0, 1, 3), rows(0, 1, 2))
