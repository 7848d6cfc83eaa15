"""Kernels over all cores: rows are divided among threads, which hold no lock of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UsageError
from wvindex.formats.encodings import Encoding
from wvindex.formats.fp8 import require_scales, scale_rows_of
from wvindex.formats.kernels import rows as kernels
from wvindex.formats.workers import share

Result = TypeVar("Result")

MIN_PART: Final = 1 << 18
"""Values that are worth a thread's while: a tenth of a millisecond of decoding."""

PARTS_PER_THREAD: Final = 2
"""More parts than threads, so that a thread that is held up does not hold up the others."""


def threads() -> int:
    """Give how many threads decode at once: ``WVINDEX_THREADS``, else the processors we may use.

    Raises
    ------
    UsageError
        If ``WVINDEX_THREADS`` is not a positive number.
    """
    wish = os.environ.get("WVINDEX_THREADS", "")
    if not wish:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not (wish.isascii() and wish.isdigit() and 0 < int(wish) <= 4096):
        raise UsageError("WVINDEX_THREADS is no number of threads", expected="1 to 4096", found=wish)
    return int(wish)


def decode_parallel(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    out: NDArray[Any],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
    n_threads: int | None = None,
) -> bool:
    """Decode rows as `decode` does, on several threads where they are many.

    Parameters
    ----------
    raw, encoding, out, scales, first_row
        As there.
    n_threads : int, optional
        `threads()` if not given.

    Returns
    -------
    bool
        As there.
    """

    def run(part: slice) -> bool:
        some, offset = _scales_of(encoding, scales, first_row, part)
        return kernels.decode(
            raw[part], encoding, out[part], scales=some, first_row=offset, streaming=streaming
        )

    n_rows = min(raw.shape[0], out.shape[0])
    streaming = out.nbytes >= kernels.STREAM_BYTES
    workers = threads() if n_threads is None else n_threads
    parts = _parts(n_rows, out.size, workers)
    if len(parts) < 2 or raw.shape[0] != out.shape[0]:
        return kernels.decode(raw, encoding, out, scales=scales, first_row=first_row)
    if scales is not None:
        require_scales(raw, scales, encoding, first_row)
    return all(_over(parts, run, workers))


def dot_parallel(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    scales: NDArray[np.float32] | None = None,
    first_row: int = 0,
    n_threads: int | None = None,
) -> None:
    """Multiply encoded rows by vectors as `dot` does, on several threads where the rows are many.

    Parameters
    ----------
    raw, encoding, x, out, scales, first_row
        As there.
    n_threads : int, optional
        `threads()` if not given.
    """

    def run(part: slice) -> None:
        some, offset = _scales_of(encoding, scales, first_row, part)
        kernels.dot(raw[part], encoding, x, out[..., part], scales=some, first_row=offset)

    workers = threads() if n_threads is None else n_threads
    parts = _parts(raw.shape[0], raw.shape[0] * x.shape[-1], workers)
    if len(parts) < 2 or out.shape[-1] != raw.shape[0]:
        kernels.dot(raw, encoding, x, out, scales=scales, first_row=first_row)
        return
    if scales is not None:
        require_scales(raw, scales, encoding, first_row)
    _over(parts, run, workers)


def _parts(n_rows: int, n_values: int, workers: int) -> list[slice]:
    """Divide rows evenly; into one part where they are few."""
    count = min(n_rows, workers * PARTS_PER_THREAD, n_values // MIN_PART) if workers > 1 else 1
    bounds = [n_rows * i // max(1, count) for i in range(max(1, count) + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _scales_of(
    encoding: Encoding, scales: NDArray[np.float32] | None, first_row: int, part: slice
) -> tuple[NDArray[np.float32] | None, int]:
    if scales is None:
        return None, first_row
    return scale_rows_of(encoding, scales, first_row + part.start, first_row + part.stop)


def _over(parts: list[slice], run: Callable[[slice], Result], workers: int) -> list[Result]:
    """Run all parts, on this thread and those of the pool that are free; in no particular order."""
    results: list[Result] = []

    def work(mine: Iterator[slice]) -> None:
        results.extend([run(part) for part in mine])

    share(parts, work, workers, _pool())
    return results


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads for all callers together."""
    return ThreadPoolExecutor(max(1, threads()), thread_name_prefix="wvindex-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # The child has none of the threads.
