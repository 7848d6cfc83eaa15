"""Work that is shared is done once, by as many threads as were asked for, and is over when `share` is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from wvindex.formats.workers import share


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_items", [0, 1, 3, 100])
def test_every_item_is_worked_on_once(n_items: int, n_threads: int) -> None:
    done: list[int] = []
    share(range(n_items), done.extend, n_threads)
    assert sorted(done) == list(range(n_items))


def test_threads_work_at_once_and_the_caller_is_one_of_them() -> None:
    meeting = threading.Barrier(3, timeout=60)
    seen: set[int] = set()

    def work(items: Iterator[int]) -> None:
        for _ in items:
            meeting.wait()
            seen.add(threading.get_ident())

    share(range(3), work, 3)
    assert len(seen) == 3
    assert threading.get_ident() in seen


@pytest.mark.parametrize(("n_items", "n_threads"), [(9, 1), (1, 9)])
def test_one_thread_or_one_item_starts_no_other(n_items: int, n_threads: int) -> None:
    seen: set[int] = set()

    def work(items: Iterator[int]) -> None:
        seen.update(threading.get_ident() for _ in items)

    share(range(n_items), work, n_threads)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("in_caller", [False, True])
def test_an_error_ends_the_work_and_nobody_goes_on_after_it(in_caller: bool) -> None:
    caller = threading.get_ident()
    meeting = threading.Barrier(2, timeout=60)
    done: list[int] = []

    def work(items: Iterator[int]) -> None:
        for i in items:
            meeting.wait()
            if (threading.get_ident() == caller) == in_caller:
                raise ValueError("broken")
            time.sleep(0.05)
            done.append(i)
            return

    with pytest.raises(ValueError, match="broken"):
        share(range(1000), work, 2)
    assert len(done) == 1
