"""How many threads NumPy's matrix products take: one, where the callers are several threads themselves."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Final, NamedTuple

_EXTENSION: Final = "numpy._core._multiarray_umath"
"""What of NumPy is linked to BLAS."""

# OpenBLAS as NumPy's wheels have it, and as distributions do.
_PREFIXES: Final = ("scipy_openblas", "openblas")
_SUFFIXES: Final = ("64_", "")


class _Threads(NamedTuple):
    """OpenBLAS's own functions."""

    get: Callable[[], int]
    set: Callable[[int], None]


class _Limit:
    """Who has asked for one thread, and how many there were before: the last to leave restores them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before = 1


_limit = _Limit()


@contextmanager
def one_thread() -> Iterator[bool]:
    """Let products run on the thread that asks for them, where the library can be told so.

    One product over all cores waits, spinning, for its slowest thread: where other programs run, or the
    threads are the caller's, several products of one thread each are faster. The setting is the process's:
    products of other threads are as fast as one thread is, meanwhile. What somebody else sets meanwhile
    stays, and a forked child starts without the limit.

    Yields
    ------
    bool
        Whether it is so. False where NumPy has another library than OpenBLAS.
    """
    blas = _openblas()
    if blas is None:
        yield False
        return
    limit = _limit
    with limit.lock:
        if not limit.users:
            limit.before = blas.get()
            blas.set(1)
        limit.users += 1
    try:
        yield True
    finally:
        if limit is _limit:  # Else this is a child, and the limit its parent's.
            with limit.lock:
                limit.users -= 1
                if not limit.users:
                    _lift(blas, limit)


def _lift(blas: _Threads, limit: _Limit) -> None:
    if blas.get() == 1:
        blas.set(limit.before)


def _forget() -> None:
    """Lift the limit in a forked child, which has none of the threads that would."""
    global _limit
    limit, _limit = _limit, _Limit()
    blas = _openblas() if limit.users else None
    if blas is not None:
        _lift(blas, limit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@cache
def _openblas() -> _Threads | None:
    """Find OpenBLAS among what NumPy has loaded: a library answers for those that it is linked to."""
    try:
        library = ctypes.CDLL(import_module(_EXTENSION).__file__)
    except (ImportError, OSError):
        return None
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            getter = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
            setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
            if getter is not None and setter is not None:
                setter.argtypes, setter.restype = (ctypes.c_int,), None
                return _Threads(getter, setter)
    return None
