"""Keeps Python's cycle collector from looking again and again at what a large checkpoint is made of."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class _Pauses:
    """How many pauses there are just now, and whether the collector is to go on after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._goes_on = False

    def begin(self) -> None:
        """Stop the collector, if nobody has."""
        with self._lock:
            if self._count == 0:
                self._goes_on = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        """Let the collector go on, if this was the last pause and it was going on before the first."""
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._goes_on:
                gc.enable()


_PAUSES: Final = _Pauses()


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collect no cycles meanwhile: for work that makes many objects and keeps them.

    The collector walks all objects there are each time their number has grown by a quarter, and finds
    nothing: headers of a hundred thousand tensors make no cycle. Pauses may overlap, in one thread or in
    several.
    """
    _PAUSES.begin()
    try:
        yield
    finally:
        _PAUSES.end()
