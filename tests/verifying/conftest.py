from __future__ import annotations

from pathlib import Path

import pytest

import wvindex
from tests.support.cli import EXAMPLE
from tests.support.sealing import copied, seal


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the store of the example model: Q8_0 and F32, absorbed attention, experts, a tokenizer."""
    return seal(wvindex.build(EXAMPLE, tmp_path_factory.mktemp("sound") / "kjv.zarr"))


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """Give a copy of it to damage."""
    return copied(sound, tmp_path)
