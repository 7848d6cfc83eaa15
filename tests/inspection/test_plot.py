"""Histograms are NumPy's; bars fit their width; pictures need matplotlib and say so."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tests.support.tensors import plain_tensor
from wvindex.errors import StoreError, TargetExists, UsageError
from wvindex.inspection.plot import Bars, histogram, histogram_bars, table_bars, text_bars, write_bars

BARS = table_bars("std of tensors", ["first", "second", "third"], [2.0, 1.0, None])


def test_histograms_count_as_numpy_does() -> None:
    values = np.random.default_rng(0).integers(-512, 512, (700, 1500)).astype(np.float32) / 256
    values[0, :3] = np.nan, np.inf, -np.inf
    counts = histogram(plain_tensor(values), -1, 1, 64)
    expected, _ = np.histogram(values[np.isfinite(values)], 64, (-1, 1))
    np.testing.assert_array_equal(counts, expected)


def test_a_histogram_of_one_value_has_one_bar() -> None:
    bars = histogram_bars(plain_tensor(np.full((3, 4), 2, np.float32)), 2, 2, 1)
    assert (bars.labels, bars.values) == (("2",), (12.0,))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_bars_are_as_long_as_their_numbers(width: int) -> None:
    title, *lines = text_bars(BARS, width).splitlines()
    lengths = [line.count("█") for line in lines]
    assert title == "std of tensors"
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=1)
    assert lengths[2] == 0
    assert max(map(len, lines)) <= width


def test_nothing_but_zeros_has_no_bars() -> None:
    assert "█" not in text_bars(Bars("t", ("a", "b"), (0.0, math.nan)), 60)


@pytest.mark.parametrize("name", ["bars.png", "bars.svg"])
def test_pictures(name: str, tmp_path: Path) -> None:
    write_bars(BARS, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG\r\n")
    else:
        assert ET.fromstring(data).tag.endswith("svg")


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        write_bars(BARS, tmp_path / "bars.jpg")


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        write_bars(BARS, tmp_path / "missing" / "bars.png")


def test_a_picture_replaces_a_file_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "bars.svg"
    file.write_text("mine")
    with pytest.raises(TargetExists):
        write_bars(BARS, file)
    assert file.read_text() == "mine"
    write_bars(BARS, file, overwrite=True)
    assert ET.parse(file).getroot().tag.endswith("svg")
    assert [one.name for one in tmp_path.iterdir()] == ["bars.svg"]


def test_labels_that_are_too_long_keep_both_ends() -> None:
    keys = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (3, 12) for p in "qv"]
    _, *lines = text_bars(table_bars("t", keys, [1.0] * 4), 60).splitlines()
    labels = [line.split()[0] for line in lines]
    assert len(set(labels)) == 4
    for label, key in zip(labels, keys, strict=True):
        start, end = label.split("…")
        assert key.startswith(start)
        assert key.endswith(end)
        assert start
    assert max(map(len, lines)) <= 60


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'wvindex\[plot\]'"):
        write_bars(BARS, tmp_path / "bars.png")
