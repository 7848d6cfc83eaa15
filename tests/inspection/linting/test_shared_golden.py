"""Models that other people's tools made are healthy: nothing but information about them."""

from __future__ import annotations

from pathlib import Path

import pytest

import wvindex as wv
from tests.support.golden import golden

MODELS = [*golden("*/*.gguf"), *golden("families/*/*.gguf"), *golden("**/hf")]

INFORMATION = {"WV502", "WV705"}
"""Embeddings that are padded for their filler tokenizers, and K-quants of narrow matrices."""


@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_false_alarm(path: Path) -> None:
    report = wv.check(path)
    assert report.at_least("warning") == ()
    assert {finding.rule for finding in report} <= INFORMATION
