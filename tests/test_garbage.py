"""While a checkpoint is opened no cycles are collected; whatever happens, they are again afterwards."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import wvindex
from wvindex.errors import WvindexError
from wvindex.garbage import collection_paused


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_the_collector_rests_until_the_last_pause_is_over() -> None:
    with collection_paused():
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_pauses_of_several_threads_may_end_in_any_order() -> None:
    begun, ended = threading.Event(), threading.Event()

    def pause() -> None:
        with collection_paused():
            begun.set()
            ended.wait()

    other = threading.Thread(target=pause)
    with collection_paused():
        other.start()
        begun.wait()
    assert not gc.isenabled()
    ended.set()
    other.join()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with collection_paused():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_file_that_is_refused_leaves_it_going(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(8))
    with pytest.raises(WvindexError):
        wvindex.open(path)
    assert gc.isenabled()
