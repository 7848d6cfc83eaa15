"""One pass over two tensors gives what NumPy gives of the decoded arrays in float64."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.support.packed import PACKED, random_rows, reference_decode
from tests.support.tensors import encoded_tensor, plain_tensor
from wvindex.formats.encodings import ENCODINGS
from wvindex.inspection import side_by_side as module
from wvindex.inspection.gap import Gap
from wvindex.inspection.side_by_side import have_equal_bytes, side_by_side
from wvindex.query.lazy import Tensor

SHAPES = [(3000, 700), (4, 300, 256), (500_000,), (70_000, 3), (), (5, 1), (1, 1)]


def plain(values: NDArray[Any]) -> Tensor:
    return plain_tensor(np.asarray(values))


def gap(a: NDArray[Any], b: NDArray[Any]) -> Gap:
    return Gap.merged(side_by_side(plain(a), plain(b)).matrices)


def require(found: Gap, a: NDArray[Any], b: NDArray[Any]) -> None:
    """Hold a gap against NumPy's float64."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    both = np.isfinite(x) & np.isfinite(y)
    same = both | (x == y) | (np.isnan(x) & np.isnan(y))
    d = x[both] - y[both]
    assert found.count == x.size
    assert found.changed == np.count_nonzero(d) + np.count_nonzero(~same)
    assert found.nonfinite == np.count_nonzero(~same)
    assert found.max_abs == np.abs(d).max(initial=0)
    assert found.mean_abs == pytest.approx(np.abs(d).mean() if d.size else 0, rel=1e-12)
    assert found.rmse == pytest.approx(math.sqrt((d**2).mean()) if d.size else 0, rel=1e-12)
    norm, other = np.linalg.norm(x[both]), np.linalg.norm(y[both])
    if norm and np.linalg.norm(d):
        assert found.rel_l2 == pytest.approx(np.linalg.norm(d) / norm, rel=1e-12)
        assert found.sqnr_db == pytest.approx(20 * math.log10(norm / np.linalg.norm(d)), rel=1e-9, abs=1e-9)
    if norm and other:
        assert found.cosine == pytest.approx(x[both] @ y[both] / norm / other, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_sum_is_numpys(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(5)
    a = np.asarray(rng.standard_normal(shape), np.float32)
    b = np.asarray(a + 0.01 * rng.standard_normal(shape)).astype(dtype)
    seen = side_by_side(plain(a), plain(b), n_worst=3)
    require(Gap.merged(seen.matrices), a, b)
    d = a.astype(np.float64) - b.astype(np.float64)
    rows = d.reshape(-1, shape[-1] if shape else 1)
    assert seen.peak is not None
    assert divmod(int(np.abs(rows).argmax()), rows.shape[1]) == (seen.peak.row, seen.peak.column)
    relative = np.linalg.norm(rows, axis=1) / np.linalg.norm(a.astype(np.float64).reshape(rows.shape), axis=1)
    assert [row for row, _ in seen.rows] == np.argsort(-relative, kind="stable")[:3].tolist()


@pytest.mark.parametrize("name", PACKED)
def test_packed_blocks_beside_what_others_decode(name: str) -> None:
    raw = random_rows(name, 5, 2)
    values = reference_decode(raw, name)
    other = np.nan_to_num(values, nan=1.0, posinf=2.0, neginf=-2.0) * np.float32(0.75)
    found = side_by_side(encoded_tensor(raw, ENCODINGS[name]), plain(other))
    require(Gap.merged(found.matrices), values, other)


def test_each_matrix_of_a_stack_has_its_own_sums() -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((5, 700, 300)).astype(np.float32)
    b = a.copy()
    b[3] *= 2
    seen = side_by_side(plain(a), plain(b))
    assert len(seen.matrices) == 5
    for i, one in enumerate(seen.matrices):
        require(one, a[i], b[i])


def test_the_sums_are_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((9000, 512)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32)
    b[17] = b[4000] = 0  # two rows that are equally bad
    found = []
    for n in (1, 3):
        monkeypatch.setattr(module, "threads", lambda n=n: n)
        found.append(side_by_side(plain(a), plain(b), n_worst=4))
    assert found[0] == found[1]


NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 40)).flatmap(
        lambda shape: st.tuples(
            *(arrays.arrays(np.float32, shape, elements=NUMBERS, fill=st.just(0.5)) for _ in range(2))
        )
    )
)
def test_symmetric_metrics_are_symmetric(both: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    a, b = both
    there, back = gap(a, b), gap(b, a)
    for name in ("changed", "nonfinite", "max_abs", "mean_abs", "rmse"):
        assert getattr(there, name) == getattr(back, name)
    assert there.cosine == pytest.approx(back.cosine, nan_ok=True)
    require(there, a, b)
    itself = gap(a, a)
    assert (itself.changed, itself.max_abs, itself.rel_l2, itself.cosine) == (0, 0, 0, 1)


def test_nan_and_infinity() -> None:
    a = np.array([np.nan, np.inf, -np.inf, np.nan, np.inf, 1, 2, np.inf], np.float32)
    b = np.array([np.nan, np.inf, -np.inf, 1, -np.inf, np.nan, 2.5, 3], np.float32)
    found = gap(a, b)
    assert (found.changed, found.nonfinite, found.skipped, found.finite) == (5, 4, 3, 1)
    assert found.max_abs == 0.5
    assert found.rel_l2 == 0.25


def test_zero_beside_something() -> None:
    zero, one = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert (gap(zero, one).rel_l2, gap(zero, one).sqnr_db) == (math.inf, -math.inf)
    assert (gap(one, zero).rel_l2, gap(one, zero).sqnr_db) == (1, 0)
    assert math.isnan(gap(one, zero).cosine)
    assert (gap(zero, zero).rel_l2, gap(zero, zero).cosine, gap(zero, zero).sqnr_db) == (0, 1, math.inf)
    assert gap(zero, -zero).changed == 0


def test_numbers_whose_squares_are_too_large_still_count() -> None:
    found = gap(np.array([1e200, 1.0]), np.array([1.5e200, 1.0]))
    assert (found.changed, found.max_abs, found.nonfinite) == (1, 5e199, 0)


def test_bytes_are_equal_or_not() -> None:
    raw = random_rows("Q4_K", 5000, 4)
    other = raw.copy()
    other[4321, 7] ^= 1
    packed = [encoded_tensor(r, ENCODINGS["Q4_K"]) for r in (raw, raw.copy(), other)]
    assert have_equal_bytes(packed[0], packed[1])
    assert not have_equal_bytes(packed[0], packed[2])
    values = np.full((4, 8), np.nan, np.float32)
    assert have_equal_bytes(plain(values), plain(values.copy()))
    assert not have_equal_bytes(plain(values), plain(values.astype(np.float16)))
    assert not have_equal_bytes(plain(values), plain(values.reshape(8, 4)))


def test_equal_codes_with_other_scales_are_not_equal() -> None:
    from wvindex.formats.encodings import F8_E4M3, with_scale_block

    encoding = with_scale_block(F8_E4M3, (128, 128))
    codes = np.random.default_rng(0).integers(0, 100, (200, 256)).astype(np.uint8)
    scales = np.ones((2, 2), np.float32)
    other = scales.copy()
    other[1, 0] = 2
    a, b, c = (encoded_tensor(codes, encoding, s) for s in (scales, scales.copy(), other))
    assert have_equal_bytes(a, b)
    assert not have_equal_bytes(a, c)
    found = side_by_side(a, c).matrices[0]
    assert found.changed == np.count_nonzero(codes[128:, :128])


def test_an_empty_tensor_is_equal_to_another() -> None:
    empty = np.zeros((0, 4), np.float32)
    assert have_equal_bytes(plain(empty), plain(empty))
    assert gap(empty, empty.astype(np.float64)).changed == 0
