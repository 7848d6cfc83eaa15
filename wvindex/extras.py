"""What is installed only where it is wanted, and how to install it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXTRAS: Final[Mapping[str, str]] = {"duckdb": "sql", "matplotlib": "plot", "scipy": "spectrum"}
"""Packages, and the extra of this one that brings them."""


def install_hint(package: str) -> str:
    """Say how to install a package, from an index or in a clone of this repository."""
    extra = EXTRAS.get(package)
    return (
        f"pip install {package}"
        if extra is None
        else f"pip install 'wvindex[{extra}]' (in a clone '.[{extra}]')"
    )
