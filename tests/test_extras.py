"""Hints about packages that are missing name what installs them."""

from __future__ import annotations

import tomllib

import pytest

from tests.support.cli import REPOSITORY
from wvindex.extras import EXTRAS, install_hint

DECLARED = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_brings_its_package(package: str) -> None:
    assert any(one.startswith(f"{package}>") for one in DECLARED[EXTRAS[package]])


def test_a_hint_is_true_of_an_index_and_of_a_clone() -> None:
    assert install_hint("duckdb") == "pip install 'wvindex[sql]' (in a clone '.[sql]')"
    assert install_hint("pandas") == "pip install pandas"
