"""Fixtures of the whole suite."""

from __future__ import annotations

import pytest

from tests.support.stores import Stores


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Give checkpoints on disk and their stores, made once."""
    return Stores(tmp_path_factory.mktemp("stores"))
