"""Products of encoded rows with vectors are those of the decoded rows, up to float32 sums."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fp8 import dequantize
from tests.support.packed import PACKED, Bytes, random_rows, reference_decode
from wvindex.errors import TensorLayoutError, UndecodableType, UsageError
from wvindex.formats.encodings import BF16, ENCODINGS, F32, Encoding, with_scale_block
from wvindex.formats.kernels import MAX_VECTORS, dot, has_kernel

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where d, and dmin, stand in a block (``block_q*_K`` in ggml-common.h)."""

FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (8, 96))


def vectors(count: int, length: int) -> Floats:
    return np.random.default_rng(1).standard_normal((count, length)).astype(np.float32)


def finite_rows(name: str, n_rows: int, n_blocks: int) -> Bytes:
    """Bytes that no half, float or exponent among them can make infinite or NaN."""
    return random_rows(name, n_rows, n_blocks) & np.uint8(0x3B)


def assert_product(found: Floats, weights: Floats, x: Floats) -> None:
    """As in float64, within a few roundings of the sum of absolute products."""
    exact: Doubles = x.astype(np.float64) @ weights.astype(np.float64).T
    bound: Doubles = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    assert (np.abs(found - exact) <= 1e-6 * bound).all()


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_times_vectors(name: str) -> None:
    encoding = ENCODINGS[name]
    raw = finite_rows(name, 7, 1280 // encoding.block_size)
    x = vectors(3, 1280)
    out = np.empty((3, 7), np.float32)
    dot(raw, encoding, x, out)
    assert_product(out, reference_decode(raw, name), x)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F8_E4M3"])
def test_plain_rows_times_vectors(name: str) -> None:
    encoding = ENCODINGS[name]
    weights = vectors(6, 700).astype(encoding.dtype)
    x = vectors(2, 700)
    out = np.empty((2, 6), np.float32)
    dot(weights.view(np.uint8), encoding, x, out)
    assert_product(out, weights.astype(np.float32), x)


@pytest.mark.parametrize("columns", [96, 700, 40])
def test_fp8_rows_with_scales_times_vectors(columns: int) -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 0x70, (21, columns), np.uint8)
    scales = rng.random((3, -(-columns // 96)), np.float32)
    weights = dequantize(codes.view(ml_dtypes.float8_e4m3fn), scales, (8, 96))
    x = vectors(2, columns)
    out = np.empty((2, 18), np.float32)
    dot(codes[3:], FP8, x, out, scales=scales, first_row=3)
    assert_product(out, weights[3:], x)


def test_scale_blocks_wider_than_a_tile() -> None:
    codes = np.random.default_rng(3).integers(0, 0x70, (4, 1000), np.uint8)
    scales = np.array([[2.0, 3.0]], np.float32)
    x, out = vectors(1, 1000)[0], np.empty(4, np.float32)
    dot(codes, with_scale_block(ENCODINGS["F8_E4M3"], (4, 600)), x, out, scales=scales)
    assert_product(out, dequantize(codes.view(ml_dtypes.float8_e4m3fn), scales, (4, 600)), x)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K"])
@pytest.mark.parametrize("count", range(2, MAX_VECTORS + 1))
def test_results_of_several_vectors_do_not_depend_on_each_other(name: str, count: int) -> None:
    encoding = ENCODINGS[name]
    raw, x = finite_rows(name, 5, 768 // encoding.block_size), vectors(MAX_VECTORS, 768)
    together, two = np.empty((count, 5), np.float32), np.empty((2, 5), np.float32)
    dot(raw, encoding, x[:count], together)
    dot(raw, encoding, x[[0, count - 1]], two)
    np.testing.assert_array_equal(together[[0, -1]], two)


@pytest.mark.parametrize("name", K_QUANTS)
@given(seed=st.integers(0, 2**32), n_blocks=st.integers(1, 9), exponent=st.integers(-30, 30))
@settings(max_examples=25, deadline=None)
def test_one_vector_times_levels(name: str, seed: int, n_blocks: int, exponent: int) -> None:
    """Any bytes with finite halves, vectors of any size; a weight and its minimum are two products."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (3, n_blocks * ENCODINGS[name].type_size), np.uint8)
    blocks = raw.reshape(3, n_blocks, -1)
    for at in HALVES[name]:
        blocks[:, :, at + 1] &= 0xBB  # neither infinite nor NaN
    x = np.float32(2.0) ** exponent * rng.standard_normal(256 * n_blocks).astype(np.float32)
    out = np.empty(3, np.float32)
    dot(raw, ENCODINGS[name], x, out)
    weights = reference_decode(raw, name).astype(np.float64)
    bound = np.abs(weights) @ np.abs(x) + (levels_and_minima(blocks, name) @ np.abs(x))
    assert (np.abs(out - weights @ x) <= 1e-6 * bound).all()


def levels_and_minima(blocks: Bytes, name: str) -> Doubles:
    """Give the largest magnitude that a weight's two terms may have, (rows, values)."""
    if len(HALVES[name]) < 2:
        return np.zeros((len(blocks), blocks.shape[1] * 256))
    largest_scale, largest_level = {"Q2_K": (15, 3), "Q4_K": (63, 15), "Q5_K": (63, 31)}[name]
    d, dmin = (
        np.abs(np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)[..., 0].astype(np.float64))
        for at in HALVES[name]
    )
    return np.repeat(largest_scale * (largest_level * d + dmin), 256, axis=1)


@pytest.mark.parametrize("name", K_QUANTS)
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan, 3e38])
def test_one_vector_with_what_is_not_finite_or_overflows(name: str, odd: float) -> None:
    """A level of 0 is a weight like others: what decoded rows give, the product gives."""
    raw, x = finite_rows(name, 6, 2), vectors(1, 512)
    x[0, 300] = odd
    out = np.empty((1, 6), np.float32)
    dot(raw, ENCODINGS[name], x, out)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (reference_decode(raw, name).astype(np.float64) @ x[0].astype(np.float64)).astype(
            np.float32
        )
    np.testing.assert_allclose(out[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", K_QUANTS)
def test_one_vector_times_infinite_blocks(name: str) -> None:
    raw, x = finite_rows(name, 4, 2), np.ones(512, np.float32)
    raw.reshape(4, 2, -1)[1, 1, HALVES[name][0] : HALVES[name][0] + 2] = (0x00, 0x7C)
    out = np.empty(4, np.float32)
    dot(raw, ENCODINGS[name], x, out)
    with np.errstate(invalid="ignore"):
        expected = reference_decode(raw, name).astype(np.float64) @ x
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(out), np.isinf(expected))


def test_strided_everything() -> None:
    raw, x = finite_rows("Q8_0", 8, 12), vectors(4, 640)
    out = np.full((6, 4), 7, np.float32)
    dot(raw[::2, 34:-34], ENCODINGS["Q8_0"], x[::2, ::2], out.T[:, 1:3].T)
    assert_product(out[1:3], reference_decode(raw, "Q8_0")[::2, 32:-32], x[::2, ::2])
    assert (out[[0, 3, 4, 5]] == 7).all()


def test_infinite_and_nan_weights_show() -> None:
    weights = np.ones((3, 64), np.float32)
    weights[0, 5], weights[1, 6] = np.inf, np.nan
    out = np.empty(3, np.float32)
    dot(weights.view(np.uint8), F32, np.ones(64, np.float32), out)
    np.testing.assert_array_equal(out, [np.inf, np.nan, 64])


@pytest.mark.parametrize(("rows", "columns"), [(0, 256), (3, 0)])
def test_empty_products(rows: int, columns: int) -> None:
    out = np.full(rows, 7, np.float32)
    raw = np.empty((rows, ENCODINGS["Q6_K"].row_bytes(columns)), np.uint8)
    dot(raw, ENCODINGS["Q6_K"], np.ones(columns, np.float32), out)
    assert not out.any()


def test_every_packed_type_has_a_product() -> None:
    assert all(has_kernel(ENCODINGS[name]) for name in PACKED)
    assert not has_kernel(Encoding("Q9_Z", 32, 18))
    with pytest.raises(UndecodableType, match="Q9_Z"):
        raw = np.zeros((1, 18), np.uint8)
        dot(raw, Encoding("Q9_Z", 32, 18), np.ones(32, np.float32), np.empty(1, np.float32))


@pytest.mark.parametrize(
    ("x_shape", "out_shape"),
    [((MAX_VECTORS + 1, 8), (MAX_VECTORS + 1, 2)), ((8,), (3,)), ((1, 8), (2,)), ((2, 1, 8), (2, 1, 2))],
)
def test_vectors_that_do_not_fit_are_refused(x_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        dot(np.zeros((2, 16), np.uint8), BF16, np.ones(x_shape, np.float32), np.empty(out_shape, np.float32))


def test_rows_that_do_not_fit_are_refused() -> None:
    x, out = np.ones(8, np.float32), np.empty(2, np.float32)
    with pytest.raises(TensorLayoutError, match=r"expected: \(2, 16\)"):
        dot(np.zeros((2, 18), np.uint8), BF16, x, out)
    with pytest.raises(TensorLayoutError, match="contiguous"):
        dot(np.zeros((2, 32), np.uint8)[:, ::2], BF16, x, out)
    with pytest.raises(TensorLayoutError, match="FP8 scales"):
        dot(np.zeros((2, 8), np.uint8), FP8, x, out)
