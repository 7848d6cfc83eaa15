"""Work that is shared is done once, by as many threads as were asked for, and is over when `share` is."""

from __future__ import annotations

import signal
import subprocess
import sys
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


def test_an_interrupt_is_raised_once_nobody_works_any_more() -> None:
    """The caller has nothing left to do, and waits: it must not leave while another thread works."""
    caller = threading.get_ident()
    meeting = threading.Barrier(2, timeout=60)
    done: list[int] = []

    def work(items: Iterator[int]) -> None:
        for i in items:
            meeting.wait()
            if threading.get_ident() == caller:
                return
            for _ in range(2):
                time.sleep(0.1)
                signal.pthread_kill(caller, signal.SIGINT)
            time.sleep(0.3)
            done.append(i)

    with pytest.raises(KeyboardInterrupt):
        share(range(2), work, 2)
    assert len(done) == 1


def test_an_error_elsewhere_ends_the_callers_work_too() -> None:
    caller = threading.get_ident()
    meeting = threading.Barrier(2, timeout=60)
    failed = threading.Event()
    done: list[int] = []

    def work(items: Iterator[int]) -> None:
        for i in items:
            if not done:
                meeting.wait()
            if threading.get_ident() != caller:
                failed.set()
                raise ValueError("broken")
            failed.wait(60)
            time.sleep(0.05)
            done.append(i)

    with pytest.raises(ValueError, match="broken"):
        share(range(1000), work, 2)
    assert len(done) == 1


AT_THE_END = """
import atexit, sys, threading, time
import numpy as np
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.kernels import decode_parallel
from wvindex.formats.workers import share

def all_of_it():
    done = []
    share(range(100), done.extend, 3)
    assert sorted(done) == list(range(100)), done
    raw, out = np.zeros((1000, 34 * 64), np.uint8), np.ones((1000, 2048), np.float32)
    assert decode_parallel(raw, ENCODINGS["Q8_0"], out, n_threads=3)
    assert not out.any()
    print("done", flush=True)

def later():
    threading.main_thread().join()
    all_of_it()

all_of_it()
atexit.register(all_of_it)
threading.Thread(target=later).start()
"""


def test_where_the_interpreter_ends_the_calling_thread_does_the_work() -> None:
    run = subprocess.run(
        [sys.executable, "-c", AT_THE_END], check=False, capture_output=True, text=True, timeout=120
    )
    assert (run.stdout.split(), run.stderr) == (["done"] * 3, "")
