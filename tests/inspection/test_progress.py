"""Whoever watches a pass is told of all bytes so far, and of how many."""

from __future__ import annotations

from wvindex.inspection.progress import advance_of


def test_bytes_are_summed() -> None:
    told: list[tuple[int, int]] = []
    advance = advance_of(10, lambda done, total: told.append((done, total)))
    for nbytes in (3, 0, 7):
        advance(nbytes)
    assert told == [(3, 10), (3, 10), (10, 10)]


def test_nobody_needs_to_watch() -> None:
    advance_of(10, None)(5)
