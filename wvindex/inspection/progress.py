"""How far a pass over stored bytes is, as callers are told."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told the encoded bytes that were gone through, and of how many."""


def advance_of(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Give what tells `progress` of all bytes, of `total`, when it is told of some."""
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return advance
