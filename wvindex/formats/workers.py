"""Several threads that take work from one queue, each with buffers of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")

Work = Callable[[Iterator[Item]], None]


def share(items: Iterable[Item], work: Work[Item], n_threads: int, pool: Executor | None = None) -> None:
    """Call `work` on this thread and others, each with an iterator over the items that it gets.

    Nobody works on an item any more once this has returned or raised, be it by an interrupt. Where no
    thread can be started, as when the interpreter ends, this one does all.

    Parameters
    ----------
    items : iterable
        Each is given to one thread, in order.
    work : callable
        Allocates what a thread needs, and goes through its items.
    n_threads : int
        This one included.
    pool : Executor, optional
        Has the others, those that are free; threads of its own if not given.
    """
    crew = _Crew(items, work)
    others = min(n_threads, len(crew.waiting)) - 1
    if others < 1:
        work(crew.taken())
    elif pool is not None:
        crew.run(pool, others)
    else:
        with ThreadPoolExecutor(others, thread_name_prefix="wvindex") as own:
            crew.run(own, others)


class _Crew(Generic[Item]):
    """Those who work on one queue: how many there are now, and what went wrong with them."""

    def __init__(self, items: Iterable[Item], work: Work[Item]) -> None:
        self.waiting = deque(items)
        self._work = work
        self._changed = threading.Condition()
        self._active = 0
        self._is_over = False
        self._errors: list[BaseException] = []

    def taken(self) -> Iterator[Item]:
        """Give items from the queue's front until there are none."""
        while True:
            try:
                item = self.waiting.popleft()
            except IndexError:
                return
            yield item

    def run(self, pool: Executor, others: int) -> None:
        """Work on this thread and up to so many others; raise what the first of them to fail raised."""
        try:
            self._call(pool, others)
            self._work(self.taken())
        except BaseException:
            self.waiting.clear()  # The others stop at the end of their item.
            raise
        finally:
            self._end()
        if self._errors:
            raise self._errors[0]

    def _call(self, pool: Executor, others: int) -> None:
        for _ in range(others):
            try:
                pool.submit(self._help)
            except RuntimeError:  # The interpreter ends, or the system has no more threads.
                return

    def _help(self) -> None:
        """Work on another thread; not at all where it is called too late."""
        with self._changed:
            if self._is_over:
                return
            self._active += 1
        try:
            self._work(self.taken())
        except BaseException as error:
            self.waiting.clear()
            self._errors.append(error)
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _end(self) -> None:
        """Wait until nobody works any more; an interrupt is raised after that."""
        interrupt: BaseException | None = None
        while True:
            try:
                with self._changed:
                    self._is_over = True
                    self._changed.wait_for(lambda: not self._active)
                break
            except BaseException as error:
                self.waiting.clear()
                interrupt = error
        if interrupt is not None:
            raise interrupt
