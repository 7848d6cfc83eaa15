"""Progress bars, on stderr; none off a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wvindex.sizes import format_size

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from wvindex.building import Progress

Report = Callable[["Progress"], None]

Update = Callable[[int, int], None]
"""Told what is done, and of how much."""


@contextmanager
def build_progress(*, quiet: bool = False) -> Iterator[Report | None]:
    """Show how far a build is, with its rate, bytes and time left.

    Gives what `wvindex.build` takes as ``progress``: None if `quiet`, or if stderr is no terminal.
    """
    with _bar(quiet=quiet) as update:
        yield None if update is None else lambda at: update(at.bytes_done, at.bytes_total)


@contextmanager
def scan_progress() -> Iterator[Update | None]:
    """Show how many bytes were gone through, until it is over: ``progress(bytes_done, bytes_total)``."""
    with _bar(transient=True) as update:
        yield update


@contextmanager
def _bar(*, quiet: bool = False, transient: bool = False) -> Iterator[Update | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns: tuple[ProgressColumn, ...] = (
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _size_column(),
        _rate_column(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True, transient=transient) as bar:
        task = bar.add_task("progress", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _size_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class SizeColumn(ProgressColumn):
        """Bytes written, of how many."""

        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else format_size(int(task.total))
            return Text(f"{format_size(int(task.completed))} of {total}")

    return SizeColumn()


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Bytes a second since the start: single steps come in bursts, when the disk has taken them."""

        def render(self, task: Task) -> Text:
            elapsed = task.finished_time if task.finished else task.elapsed
            return Text(f"{format_size(int(task.completed / elapsed))}/s" if elapsed else "")

    return RateColumn()
