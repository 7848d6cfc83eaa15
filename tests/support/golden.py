"""Where the reference models are that other people's tools made."""

from __future__ import annotations

import os
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]

GOLDEN: Path = Path(os.environ.get("WVINDEX_GOLDEN", _REPOSITORY.parent / "shared" / "golden"))
"""Directory of reference models; a test that needs one fails where it is missing."""


COMMITTED: Path = _REPOSITORY / "tests" / "golden"
"""Reference files that the repository carries: always there."""

EXAMPLE: Path = _REPOSITORY / "examples" / "tiny-kjv-Q8_0.gguf"
"""The demonstration model, converted by llama.cpp."""


def golden(pattern: str) -> list[Path]:
    """Give the reference files that match `pattern`, sorted; there must be some."""
    found = sorted(GOLDEN.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {GOLDEN}; set WVINDEX_GOLDEN")
    return found
