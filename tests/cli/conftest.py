from __future__ import annotations

from pathlib import Path

import pytest

import wvindex
from tests.support.cli import EXAMPLE


@pytest.fixture(scope="session")
def kjv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the store of the example model."""
    return wvindex.build(EXAMPLE, tmp_path_factory.mktemp("kjv") / "kjv.zarr")
