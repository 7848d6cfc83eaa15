"""Where faults are tried: in memory where there is such a place, for no test here needs a disk that lasts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_IN_MEMORY: Final = Path("/dev/shm")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a directory for the tests of a module; it is removed behind them."""
    if not os.access(_IN_MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    directory = tempfile.mkdtemp(prefix="wvindex-faults-", dir=_IN_MEMORY)
    yield Path(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def tmp_memory(memory: Path) -> Path:
    """Give a directory for one test."""
    return Path(tempfile.mkdtemp(dir=memory))
