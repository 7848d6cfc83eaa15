"""Several threads that take work from one queue, each with buffers of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def share(items: Iterable[Item], work: Callable[[Iterator[Item]], None], n_threads: int) -> None:
    """Call `work` on this thread and others, each with an iterator over the items that it gets.

    Nobody works on an item any more once this has returned or raised.

    Parameters
    ----------
    items : iterable
        Each is given to one thread, in order.
    work : callable
        Allocates what a thread needs, and goes through its items.
    n_threads : int
        This one included.
    """
    waiting = deque(items)
    others = min(n_threads, len(waiting)) - 1
    if others < 1:
        work(_taken(waiting))
        return
    with ThreadPoolExecutor(others, thread_name_prefix="wvindex") as pool:
        started = [pool.submit(work, _taken(waiting)) for _ in range(others)]
        try:
            work(_taken(waiting))
            for future in started:
                future.result()
        finally:
            waiting.clear()  # After an error the others stop at the end of their item.


def _taken(waiting: deque[Item]) -> Iterator[Item]:
    """Give items from the queue's front until there are none."""
    while True:
        try:
            item = waiting.popleft()
        except IndexError:
            return
        yield item
