"""Statistics of a tensor are NumPy's, of all its finite values in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.packed import PACKED, random_rows, reference_decode
from tests.support.tensors import encoded_tensor, plain_tensor
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.inspection.moments import Moments
from wvindex.inspection.quantiles import PROBABILITIES
from wvindex.inspection.scan import column_states, scan
from wvindex.inspection.tensor_stats import Summary, row_rows, summarize, tensor_row
from wvindex.query.lazy import Tensor
from wvindex.query.stream import STREAM_VALUES

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)

FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)

EPSILON = 2.0**-52
SUBNORMAL = 5e-324


def in_float64(values: NDArray[Any]) -> NDArray[np.float64]:
    """Give the values flat; a signaling NaN is no reason to warn."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64).reshape(-1)


def require_moments(found: Moments, values: NDArray[Any]) -> None:
    """Compare with NumPy, to the rounding of float64 sums of as many terms."""
    flat = in_float64(values)
    finite = flat[np.isfinite(flat)]
    assert found.count == flat.size
    assert found.finite == finite.size
    assert found.nan == np.isnan(flat).sum()
    assert found.inf == np.isinf(flat).sum()
    if not finite.size:
        assert math.isnan(found.std)
        assert found.l2 == 0
        return
    n, scale = finite.size, float(np.abs(finite).max())
    assert found.zeros == (finite == 0).sum()
    assert (found.min, found.max, found.absmax) == (finite.min(), finite.max(), scale)
    mean = math.fsum(finite) / n
    deviations = finite - mean
    width = float(np.abs(deviations).max()) + EPSILON * scale
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=8 * EPSILON * scale + n * SUBNORMAL)
    for name, power in (("m2", 2), ("m3", 3), ("m4", 4)):
        exact = math.fsum(deviations**power)
        of_the_mean = power * n * EPSILON * scale * width ** (power - 1)  # a float64 that is rounded, too
        slack = 64 * n * EPSILON * width**power + of_the_mean + n * SUBNORMAL
        assert getattr(found, name) == pytest.approx(exact, rel=1e-9, abs=slack)
    assert found.l2 == pytest.approx(math.sqrt(math.fsum(finite**2)), rel=1e-12)


def require_quantiles(found: Sequence[float], values: NDArray[Any]) -> None:
    flat = in_float64(values)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        assert all(map(math.isnan, found))
        return
    expected = np.quantile(finite, list(PROBABILITIES.values()), method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)


def require_summary(found: Summary, values: NDArray[Any]) -> None:
    require_moments(found.moments, values)
    require_quantiles(found.quantiles, values)
    if values.ndim > 1 and found.moments.finite:
        flat = in_float64(values)
        finite = flat[np.isfinite(flat)]
        assert found.outliers == (np.abs(finite) > 6 * found.moments.std).sum()


@given(hnp.arrays(np.float32, SHAPES, elements=FLOAT32))
def test_float32_of_any_shape(values: NDArray[np.float32]) -> None:
    require_summary(summarize([plain_tensor(values)]), values)


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e60, 1e60) | st.just(math.nan)))
def test_float64_of_any_shape(values: NDArray[np.float64]) -> None:
    require_summary(summarize([plain_tensor(values)]), values)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-110, 1e-90, 1e-60, 1e70, 1e104, 1e150, 1e200, 1e306])
def test_float64_whose_powers_are_beyond_float64(scale: float) -> None:
    values = np.random.default_rng(0).standard_normal((70, 80)) ** 2
    exact = [float(numbers(values, axis=None)) for numbers in (scipy.stats.skew, scipy.stats.kurtosis)]
    found = summarize([plain_tensor(values * scale)])
    if scale > 1e-150:  # below, squares have few digits or none
        with np.errstate(over="ignore"):
            expected = (values * scale).std(), np.linalg.norm(values * scale)
        np.testing.assert_allclose((found.moments.std, found.moments.l2), expected, rtol=1e-12)
    assert found.moments.mean == pytest.approx(values.mean() * scale, rel=1e-12)
    for name, value in zip(("skewness", "kurtosis"), exact, strict=True):
        number = getattr(found.moments, name)
        assert math.isnan(number) or number == pytest.approx(value, rel=1e-9)
        assert not math.isnan(number) or not 1e-60 <= scale <= 1e70
    assert found.outliers == (np.abs(values) > found.moments.std / scale * 6).sum()


@given(hnp.arrays(np.uint16, SHAPES), st.sampled_from([np.float16, ml_dtypes.bfloat16]))
def test_sixteen_bits_of_any_pattern(bits: NDArray[np.uint16], dtype: Any) -> None:
    values = bits.view(dtype)
    require_summary(summarize([plain_tensor(values)]), values)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_, ml_dtypes.float8_e4m3fn]
)
def test_other_plain_types(dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 100, (37, 41)).astype(dtype)
    require_summary(summarize([plain_tensor(values)]), values)


@pytest.mark.parametrize("name", PACKED)
def test_packed_blocks_with_any_scale(name: str) -> None:
    raw = random_rows(name, 7, 3)
    require_summary(summarize([encoded_tensor(raw, ENCODINGS[name])]), reference_decode(raw, name))


def test_fp8_with_scales() -> None:
    random = np.random.default_rng(1)
    codes = random.standard_normal((300, 200)).astype(ml_dtypes.float8_e4m3fn)
    scales = random.random((3, 2), np.float32)
    tensor = encoded_tensor(codes.view(np.uint8), with_scale_block(ENCODINGS["F8_E4M3"], (128, 128)), scales)
    whole = np.kron(scales, np.ones((128, 128), np.float32))[:300, :200]
    require_summary(summarize([tensor]), codes.astype(np.float32) * whole)


@pytest.fixture(scope="module")
def large() -> NDArray[np.float32]:
    """Give more than some tiles of heavy-tailed values far from zero."""
    values = np.random.default_rng(2).standard_t(4, (700, 3000)).astype(np.float32) * 0.02 + 1
    assert values.size > 5 * STREAM_VALUES
    values[3, 5], values[600, 2999], values[0, 0] = np.nan, np.inf, -np.inf
    return values


def test_many_tiles(large: NDArray[np.float32]) -> None:
    require_summary(summarize([plain_tensor(large)]), large)


def test_the_same_numbers_on_any_number_of_threads(
    large: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for n_threads in ("1", "2", "5"):
        monkeypatch.setenv("WVINDEX_THREADS", n_threads)
        found.append(summarize([plain_tensor(large)]))
    assert found[0] == found[1] == found[2]


def test_a_constant_far_from_zero_has_no_spread() -> None:
    found = summarize([plain_tensor(np.full((300, 1001), 1e6 + 0.1, np.float32))])
    assert (found.moments.std, found.moments.mean) == (0, float(np.float32(1e6 + 0.1)))
    assert math.isnan(found.moments.kurtosis)


@pytest.mark.parametrize("first", [0.0, 1e6, -3e4])
def test_pieces_whose_means_lie_far_apart(first: float) -> None:
    random = np.random.default_rng(7)
    values = (random.standard_normal((9, 4096)) * 1e-3 + first).astype(np.float32)
    values[1::2] += np.float32(40)
    exact = values.astype(np.float64)
    found = summarize([plain_tensor(values)]).moments
    centred = exact - exact.mean()
    assert found.m2 == pytest.approx((centred**2).sum(), rel=1e-12)
    assert found.m4 == pytest.approx((centred**4).sum(), rel=1e-11)
    for row, values_of_row in zip(row_rows(plain_tensor(values)), exact, strict=True):
        assert row["std"] == pytest.approx(values_of_row.std(), rel=1e-9)


def test_small_deviations_far_from_zero_keep_their_digits() -> None:
    values = (1e4 + np.random.default_rng(3).integers(-4, 5, (64, 5000)) / 1024).astype(np.float32)
    found = summarize([plain_tensor(values)]).moments
    exact = values.astype(np.float64)
    assert found.std == pytest.approx(exact.std(), rel=1e-10)
    centred = (exact - exact.mean()) / exact.std()
    assert found.kurtosis == pytest.approx((centred**4).mean() - 3, rel=1e-9)


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.float16]),
            hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=7),
            elements=st.integers(-2000, 2000).map(lambda i: i / 8),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_several_tensors_are_as_their_values_together(arrays: list[NDArray[Any]]) -> None:
    together = np.concatenate([values.astype(np.float64).reshape(-1) for values in arrays])
    found = summarize([plain_tensor(values) for values in arrays])
    require_moments(found.moments, together)
    require_quantiles(found.quantiles, together)


@given(hnp.arrays(np.float32, (4, 6), elements=FLOAT32), st.integers(1, 4), st.sampled_from([1, 2, 3, 6]))
def test_groups_of_rows_and_parts_of_rows(
    values: NDArray[np.float32], rows_per_group: int, n_segments: int
) -> None:
    states = scan(plain_tensor(values), rows_per_group=rows_per_group, n_segments=n_segments).states
    parts = [
        part
        for start in range(0, 4, rows_per_group)
        for part in np.split(values[start : start + rows_per_group], n_segments, axis=1)
    ]
    assert len(states) == len(parts)
    for state, part in zip(states, parts, strict=True):
        require_moments(Moments.of_state(state), part)


def test_rows_across_tiles(large: NDArray[np.float32]) -> None:
    found = row_rows(plain_tensor(large))
    assert [row["row"] for row in found] == list(range(700))
    finite = np.where(np.isfinite(large), large.astype(np.float64), np.nan)
    np.testing.assert_allclose([row["std"] for row in found], np.nanstd(finite, axis=1), rtol=1e-10)
    np.testing.assert_array_equal([row["absmax"] for row in found], np.nanmax(np.abs(finite), axis=1))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=FLOAT32))
def test_columns(values: NDArray[np.float32]) -> None:
    states = column_states(plain_tensor(values))
    columns = values.reshape(-1, values.shape[-1]).T
    assert len(states) == len(columns)
    for state, column in zip(states, columns, strict=True):
        require_moments(Moments.of_state(state), column)


def test_columns_across_blocks_and_threads(large: NDArray[np.float32]) -> None:
    wide = np.tile(large, (3, 1))
    moments = [Moments.of_state(state) for state in column_states(plain_tensor(wide))]
    finite = np.where(np.isfinite(wide), wide.astype(np.float64), np.nan)
    np.testing.assert_allclose([m.mean for m in moments], np.nanmean(finite, axis=0), rtol=1e-12)
    np.testing.assert_allclose([m.std for m in moments], np.nanstd(finite, axis=0), rtol=1e-9)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=FLOAT32))
def test_largest_magnitudes_of_columns(values: NDArray[np.float32]) -> None:
    found = scan(plain_tensor(values), columns=True).column_absmax
    magnitudes = np.abs(np.where(np.isfinite(values), values, 0)).reshape(-1, values.shape[-1])
    np.testing.assert_array_equal(found, magnitudes.max(axis=0))


def test_a_planted_channel_is_found() -> None:
    values = np.random.default_rng(4).standard_normal((512, 256), np.float32)
    values[:, 77] *= 40
    row = tensor_row(plain_tensor(values), summarize([plain_tensor(values)]))
    assert (row["outlier_channels"], row["top_channel"]) == (1, 77)
    magnitudes = np.abs(values).max(axis=0)
    assert row["top_channel_ratio"] == pytest.approx(magnitudes[77] / np.median(magnitudes))


def test_a_channel_beside_denormal_ones_is_infinitely_larger() -> None:
    tensor = plain_tensor(np.array([[1e30, 5e-324, 5e-324]]))
    row = tensor_row(tensor, summarize([tensor]))
    assert (row["outlier_channels"], row["top_channel"], row["top_channel_ratio"]) == (1, 0, math.inf)


def test_planted_outliers_are_counted() -> None:
    values = np.random.default_rng(5).standard_normal((256, 512), np.float32)
    values[::64, 0] = [50, -50, 60, -60]
    found = summarize([plain_tensor(values)])
    assert found.outliers == 4


def test_views_are_what_they_show() -> None:
    values = np.random.default_rng(6).standard_normal((5, 32, 48), np.float32)
    expert: Tensor = plain_tensor(values).expert(3)
    require_summary(summarize([expert]), values[3])


def test_a_signaling_nan_beside_wide_values_warns_nobody() -> None:
    signaling = np.array([[0x7F800001, 0x3F800000]], np.uint32).view(np.float32)
    found = summarize([plain_tensor(signaling), plain_tensor(np.ones((2, 2)))]).moments
    assert (found.nan, found.finite, found.mean) == (1, 5, 1)


def test_a_tensor_without_values_has_no_number_but_its_counts_and_norm(tmp_path: Path) -> None:
    save_file({"empty": np.zeros((0, 3), np.float32)}, tmp_path / "m.safetensors")
    nothing = {"mean", "std", "rms", "min", "max", "absmax", "bits_per_weight"}
    (row,) = wv.stats(tmp_path / "m.safetensors")
    (selected,) = wv.sql(f"SELECT {', '.join(sorted(nothing))} FROM tensors", tmp_path / "m.safetensors")
    (paged,) = wv.inspect(tmp_path / "m.safetensors", stats=False).tensors
    for found in (row, selected):
        assert {name for name in nothing if math.isnan(found[name])} == nothing
    assert math.isnan(paged["bits_per_weight"])
    assert math.isnan(wv.inspect(tmp_path / "m.safetensors").summary.bits_per_weight)
    assert (row["count"], row["l2"]) == (0, 0)
