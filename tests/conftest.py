"""Fixtures of the whole suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.golden import GOLDEN
from tests.support.stores import Stores

# A clone by itself has no directory of reference models. Where one is given by name, it must be there.
if "WVINDEX_GOLDEN" not in os.environ and not GOLDEN.is_dir():
    collect_ignore_glob = ["*/test_shared_golden.py"]

# A busy machine is no failure: the suite bounds memory and bytes read, not the time of single examples.
settings.register_profile("wvindex", deadline=None)
settings.load_profile("wvindex")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Give checkpoints on disk and their stores, made once."""
    return Stores(tmp_path_factory.mktemp("stores"))
