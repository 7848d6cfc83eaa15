"""64-bit integers are compared as Python's integers and fractions are, though float64 does not hold them."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.cli import invoke
from tests.support.tensors import plain_tensor
from wvindex.inspection.exact_difference import distances
from wvindex.inspection.gap import Gap
from wvindex.inspection.side_by_side import side_by_side

SIGNED = st.integers(-(2**63), 2**63 - 1)
NEAR = st.sampled_from([2**62, 2**53, 2**32, 0, -(2**32), -(2**63) + 3]).flatmap(
    lambda middle: st.integers(middle - 3, middle + 3)
)
INTEGERS = {np.dtype(np.int64): SIGNED | NEAR, np.dtype(np.uint64): st.integers(0, 2**64 - 1)}
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | SIGNED.map(float) | NEAR.map(lambda n: n + 0.5)


def fraction_apart(a: Any, b: Any) -> float:
    """Give |a - b| as rational arithmetic has it."""
    return float(abs(Fraction(a) - Fraction(b)))


@pytest.mark.parametrize("left", INTEGERS)
@pytest.mark.parametrize("right", [*INTEGERS, np.dtype(np.float64)])
@given(st.data())
def test_distances_are_those_of_fractions(left: Any, right: Any, data: st.DataObject) -> None:
    a = np.array([data.draw(INTEGERS[left])], left)
    b = np.array([data.draw(INTEGERS.get(right, FLOATS))], right)
    expected = fraction_apart(a.item(), b.item())
    assert distances(a, b).item() == pytest.approx(expected, rel=1e-15, abs=0)
    assert distances(b, a).item() == distances(a, b).item()
    assert (distances(a, b).item() == 0) == (a.item() == b.item())


def gap(a: NDArray[Any], b: NDArray[Any]) -> Gap:
    return Gap.merged(side_by_side(plain_tensor(a), plain_tensor(b)).matrices)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("shape", [(), (7,), (40_000, 3), (3, 50, 17)])
def test_every_changed_value_counts(dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    a = np.asarray(rng.integers(2**61, 2**62, shape), dtype)
    add = np.asarray(rng.integers(0, 2, shape), dtype)
    add[...] = np.where(add.sum() == 0, 1, add)
    found = gap(a, a + add)
    assert (found.count, found.changed, found.nonfinite) == (a.size, add.sum(), 0)
    assert found.max_abs == 1
    assert found.mean_abs == pytest.approx(add.mean())
    assert found.rel_l2 == pytest.approx(
        math.sqrt(int(add.sum())) / np.linalg.norm(a.astype(np.float64).ravel()), rel=1e-12
    )


def test_integers_beside_floats() -> None:
    integers = np.array([2**62, 2**62 + 1, 3, -5, 7, 8], np.int64)
    floats = np.array([2.0**62, 2.0**62, 3.5, -5.0, np.nan, np.inf])
    for a, b in ((integers, floats), (floats, integers)):
        found = gap(a, b)
        assert (found.changed, found.nonfinite, found.skipped, found.max_abs) == (4, 2, 0, 1)


def test_what_stands_at_the_peak_is_told_digit_by_digit() -> None:
    a = np.full((4, 5), 2**62, np.int64)
    b = a.copy()
    b[2, 3] += 1
    b[3, 1] -= 3
    seen = side_by_side(plain_tensor(a), plain_tensor(b), n_worst=2)
    assert seen.peak is not None
    assert (seen.peak.row, seen.peak.column, seen.peak.a, seen.peak.b) == (3, 1, 2**62, 2**62 - 3)
    assert [row for row, _ in seen.rows] == [3, 2]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_files_that_differ_in_one_unit_are_not_the_same(dtype: Any, tmp_path: Path) -> None:
    for name, value in (("a", 2**62), ("b", 2**62 + 1)):
        save_file({"buffer": np.array([[5, value]], dtype)}, tmp_path / f"{name}.safetensors")
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    (row,) = wv.diff(a, b).tensors
    assert (row["status"], row["changed"], row["b_at"]) == ("different", 1, 2**62 + 1)
    assert invoke("diff", a, b).exit_code == 1
    assert invoke("diff", a, a).exit_code == 0


def test_an_integer_that_float64_rounds_is_not_the_float(tmp_path: Path) -> None:
    save_file({"buffer": np.array([2**62 + 1])}, tmp_path / "a.safetensors")
    save_file({"buffer": np.array([2.0**62])}, tmp_path / "b.safetensors")
    (row,) = wv.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").tensors
    assert (row["status"], row["changed"]) == ("different", 1)
