"""Several threads give what one gives, and never more of them than asked for."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.support.packed import random_rows
from wvindex.errors import TensorLayoutError, UsageError
from wvindex.formats.encodings import BF16, ENCODINGS, Encoding, with_scale_block
from wvindex.formats.kernels import decode, decode_parallel, dot, dot_parallel, rows, threads

Q8 = ENCODINGS["Q8_0"]
FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))


@pytest.fixture
def used_threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads on which kernels ran."""
    used = set()
    original = rows.decode

    def watched(*args: Any, **options: Any) -> bool:
        used.add(threading.get_ident())
        return original(*args, **options)

    monkeypatch.setattr(rows, "decode", watched)
    return used


@pytest.mark.parametrize("n_threads", [1, 2, 5, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_many_rows_decode_as_on_one_thread(n_threads: int | None, dtype: Any) -> None:
    raw = random_rows("Q8_0", 1003, 64) & np.uint8(0x3B)
    alone, together = (np.empty((1003, 2048), dtype) for _ in range(2))
    assert decode(raw, Q8, alone)
    assert decode_parallel(raw, Q8, together, n_threads=n_threads)
    np.testing.assert_array_equal(together, alone)


def test_large_output_is_streamed_alike() -> None:
    raw = random_rows("Q8_0", 1100, 256) & np.uint8(0x3B)
    alone, together = (np.empty((1100, 8192), np.float32) for _ in range(2))
    assert together.nbytes > rows.STREAM_BYTES
    assert decode(raw, Q8, alone, streaming=False)
    assert decode_parallel(raw, Q8, together, n_threads=2)
    np.testing.assert_array_equal(together, alone)


def test_fp8_parts_take_their_own_scales() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 0x70, (1000, 1500), np.uint8)
    scales = rng.random((9, 12), np.float32)
    alone, together = (np.empty((1000, 1500), np.float32) for _ in range(2))
    assert decode(codes, FP8, alone, scales=scales, first_row=50)
    assert decode_parallel(codes, FP8, together, scales=scales, first_row=50, n_threads=3)
    np.testing.assert_array_equal(together, alone)
    with pytest.raises(TensorLayoutError, match="FP8 scales"):
        decode_parallel(codes, FP8, together, scales=np.ones((10, 12), np.float32), first_row=50, n_threads=3)


@pytest.mark.parametrize("count", [1, 3])
def test_products_are_those_of_one_thread(count: int) -> None:
    rng = np.random.default_rng(0)
    raw = random_rows("Q8_0", 1003, 64) & np.uint8(0x3B)
    x = rng.random((count, 2048), np.float32)
    alone, together = (np.empty((count, 1003), np.float32) for _ in range(2))
    dot(raw, Q8, x, alone)
    dot_parallel(raw, Q8, x, together, n_threads=3)
    np.testing.assert_array_equal(together, alone)
    dot_parallel(raw, Q8, x[0], together[0], n_threads=3)
    np.testing.assert_array_equal(together[0], alone[0])


def test_fp8_products_take_their_own_scales() -> None:
    rng = np.random.default_rng(0)
    codes, scales = rng.integers(0, 0x70, (1000, 1500), np.uint8), rng.random((9, 12), np.float32)
    x = rng.random(1500, np.float32)
    alone, together = (np.empty(1000, np.float32) for _ in range(2))
    dot(codes, FP8, x, alone, scales=scales, first_row=50)
    dot_parallel(codes, FP8, x, together, scales=scales, first_row=50, n_threads=3)
    np.testing.assert_array_equal(together, alone)
    with pytest.raises(TensorLayoutError, match="FP8 scales"):
        dot_parallel(codes, FP8, x, together, scales=scales[:8], first_row=50, n_threads=3)


def test_few_rows_stay_on_the_calling_thread(used_threads: set[int]) -> None:
    decode_parallel(random_rows("Q8_0", 64, 4), Q8, np.empty((64, 128), np.float32), n_threads=4)
    assert used_threads == {threading.get_ident()}


def test_one_thread_is_the_calling_one(used_threads: set[int]) -> None:
    decode_parallel(random_rows("Q8_0", 512, 64), Q8, np.empty((512, 2048), np.float32), n_threads=1)
    assert used_threads == {threading.get_ident()}


def test_callers_on_many_threads_share_the_pool() -> None:
    raw = random_rows("Q8_0", 600, 64) & np.uint8(0x3B)
    expected = np.empty((600, 2048), np.float32)
    assert decode(raw, Q8, expected)

    def one(_: int) -> bool:
        out = np.empty_like(expected)
        assert decode_parallel(raw, Q8, out, n_threads=4)
        return bool((out == expected).all())

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(one, range(24)))


def test_what_has_no_kernel_is_left_alone() -> None:
    raw, out = np.zeros((2048, 18 * 32), np.uint8), np.full((2048, 1024), 7, np.float32)
    assert not decode_parallel(raw, Encoding("Q9_Z", 32, 18), out, n_threads=2)
    assert not decode_parallel(raw[:, :1024], BF16, out[:, ::2], n_threads=2)
    assert (out == 7).all()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    raw, out = random_rows("Q8_0", 600, 64), np.empty((601, 2048), np.float32)
    with pytest.raises(TensorLayoutError):
        decode_parallel(raw, Q8, out, n_threads=2)
    with pytest.raises(UsageError):
        dot_parallel(raw, Q8, np.ones(2048, np.float32), out[0, :601], n_threads=2)


def test_a_failure_on_another_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = threading.get_ident()

    def failing(*args: Any, **options: Any) -> bool:
        if threading.get_ident() != caller:
            raise MemoryError
        threading.Event().wait(0.05)  # Leave some parts to the others.
        return True

    monkeypatch.setattr(rows, "decode", failing)
    raw, out = random_rows("Q8_0", 2048, 64), np.empty((2048, 2048), ml_dtypes.bfloat16)
    with pytest.raises(MemoryError):
        decode_parallel(raw, Q8, out, n_threads=2)


def test_threads_are_the_processors_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WVINDEX_THREADS", raising=False)
    assert 1 <= threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("WVINDEX_THREADS", "3")
    assert threads() == 3


@pytest.mark.parametrize("wish", ["0", "-1", "two", "1.5", "99999", "²"])
def test_other_wishes_are_refused(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WVINDEX_THREADS", wish)
    with pytest.raises(UsageError, match="WVINDEX_THREADS"):
        threads()
