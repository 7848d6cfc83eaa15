"""Fixtures of the whole suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.golden import GOLDEN
from tests.support.stores import Stores

# A clone by itself has no directory of reference models. Where one is given by name, it must be there.
_LEFT_OUT = "WVINDEX_GOLDEN" not in os.environ and not GOLDEN.is_dir()
if _LEFT_OUT:
    collect_ignore_glob = ["*/test_shared_golden*.py"]

# A busy machine is no failure: the suite bounds memory and bytes read, not the time of single examples.
settings.register_profile("wvindex", deadline=None)
settings.load_profile("wvindex")


def pytest_report_header() -> list[str]:
    """Say what is left out, so that nobody takes it for passed."""
    if not _LEFT_OUT:
        return [f"reference models: {GOLDEN}"]
    return [
        "reference models: none, so test_shared_golden*.py are left out (WVINDEX_GOLDEN names their place)"
    ]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Give checkpoints on disk and their stores, made once."""
    return Stores(tmp_path_factory.mktemp("stores"))
