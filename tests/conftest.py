"""Fixtures of the whole suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.chromium import REQUIRED, chromium
from tests.support.golden import GOLDEN
from tests.support.stores import Stores

# A clone by itself has no directory of reference models. Where one is given by name, it must be there.
_NO_MODELS = "WVINDEX_GOLDEN" not in os.environ and not GOLDEN.is_dir()

# Nor has every machine a browser. Where one is required, its tests run, and fail without it.
_NO_BROWSER = REQUIRED not in os.environ and chromium() is None

collect_ignore_glob = [
    *(["*/test_shared_golden*.py"] if _NO_MODELS else []),
    *(["*/test_browser*.py"] if _NO_BROWSER else []),
]

# A busy machine is no failure: the suite bounds memory and bytes read, not the time of single examples.
settings.register_profile("wvindex", deadline=None)
settings.load_profile("wvindex")


def pytest_report_header() -> list[str]:
    """Say what is left out, so that nobody takes it for passed."""
    models = "none, so test_shared_golden*.py are left out (WVINDEX_GOLDEN names their place)"
    browser = "none, so test_browser*.py are left out (WVINDEX_CHROMIUM names its path)"
    return [
        f"reference models: {models if _NO_MODELS else GOLDEN}",
        f"browser: {browser if _NO_BROWSER else chromium()}",
    ]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Give checkpoints on disk and their stores, made once."""
    return Stores(tmp_path_factory.mktemp("stores"))
