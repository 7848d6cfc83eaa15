"""Sizes are read and written as people expect."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.errors import UsageError
from wvindex.sizes import bits_per_weight, format_size, parse_size, shape_text


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("17 B", 17),
        ("1kB", 1000),
        ("2 MB", 2_000_000),
        ("1.5GB", 1_500_000_000),
        ("1TB", 10**12),
        ("1KiB", 1024),
        ("512MiB", 512 << 20),
        ("4GiB", 4 << 30),
        (" 4 gib ", 4 << 30),
        ("2TiB", 2 << 40),
        ("1.5g", 3 << 29),
        ("8M", 8 << 20),
        ("0.3KiB", 307),
    ],
)
def test_a_size_is_a_number_with_an_optional_unit(text: int | str, n: int) -> None:
    assert parse_size(text) == n


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "4 XB", "1e9", "1,5GB", "4GiB!", "٤GiB", "nan", -1, True, 1.5]
)
def test_anything_else_is_refused_and_shown(text: Any) -> None:
    with pytest.raises(UsageError, match=r"size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (4 << 30, "4.0 GiB"),
        (671 << 30, "671.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_a_size_is_shown_in_binary_units(n: int, text: str) -> None:
    assert format_size(n) == text


@given(st.integers(0, 1 << 60))
def test_a_shown_size_reads_back_within_its_last_digit(n: int) -> None:
    assert abs(parse_size(format_size(n)) - n) <= max(0.051 * n, 0)


def test_a_negative_size_is_not_shown() -> None:
    with pytest.raises(UsageError):
        format_size(-1)


def test_bits_per_weight() -> None:
    assert bits_per_weight(34, 32) == 8.5  # a block of Q8_0
    assert math.isnan(bits_per_weight(0, 0))


@pytest.mark.parametrize(("shape", "text"), [((4, 256, 32), "4x256x32"), ((7,), "7"), ((), "scalar")])
def test_shapes_as_text(shape: tuple[int, ...], text: str) -> None:
    assert shape_text(shape) == text
