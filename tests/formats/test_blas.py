"""BLAS is told to take one thread while someone asks for it, and takes as many as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from wvindex.formats import blas
from wvindex.formats.blas import one_thread


class Library:
    """Remembers what it was told."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def get(self) -> int:
        return self.threads

    def set(self, threads: int) -> None:
        self.threads = threads


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library(7)
    monkeypatch.setattr(blas, "_openblas", lambda: found)
    return found


def test_the_last_to_leave_restores(library: Library) -> None:
    with one_thread() as outer, one_thread() as inner:
        assert (outer, inner, library.threads) == (True, True, 1)
    assert library.threads == 7


def test_an_error_restores_too(library: Library) -> None:
    with pytest.raises(ValueError, match="x"), one_thread():
        raise ValueError("x")
    assert library.threads == 7


def test_threads_that_overlap_share_the_limit(library: Library) -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        entered.wait(60)
    assert library.threads == 1
    leave.set()
    thread.join()
    assert library.threads == 7


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_openblas", lambda: None)
    with one_thread() as is_one:
        assert not is_one


def test_numpys_own_library_takes_it_and_gives_the_same_product() -> None:
    x = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
    expected = x @ x.T
    own = blas._openblas()
    before = own.get() if own else None
    with one_thread() as is_one:
        assert is_one == (own is not None)
        assert own is None or own.get() == 1
        np.testing.assert_allclose(x @ x.T, expected, rtol=1e-4, atol=1e-4)
    assert (own.get() if own else None) == before


def test_what_somebody_else_sets_meanwhile_stays(library: Library) -> None:
    with one_thread():
        library.set(3)
    assert library.threads == 3


NUMPYS_OWN = """
import os, sys
import numpy as np
from wvindex.formats import blas
from wvindex.formats.blas import one_thread

own = blas._openblas()
if own is None:
    sys.exit()
own.set(3)
with one_thread():
    own.set(2)
assert own.get() == 2, own.get()
own.set(3)
with one_thread():
    child = os.fork()
    if not child:
        assert own.get() == 3, own.get()
        x = np.ones((300, 300), np.float32)
        assert (x @ x == 300).all()
        with one_thread():
            assert own.get() == 1
        assert own.get() == 3
if not child:
    os._exit(0 if own.get() == 3 else 1)
assert os.waitpid(child, 0)[1] == 0
assert own.get() == 3
"""


def test_numpys_own_library_is_left_as_others_set_it_and_unlimited_in_a_child() -> None:
    run = subprocess.run(
        [sys.executable, "-c", NUMPYS_OWN], check=False, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
