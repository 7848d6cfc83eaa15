"""Products with encoded rows are those of the decoded rows, whichever way they are worked out."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.fp8 import dequantize
from tests.support.packed import PACKED, Bytes, random_rows, reference_decode
from wvindex.errors import TensorLayoutError, UndecodableType, UsageError
from wvindex.formats import matmul
from wvindex.formats.encodings import ENCODINGS, Encoding, with_scale_block
from wvindex.formats.kernels import MAX_VECTORS
from wvindex.formats.matmul import EncodedMatrix, is_fused, matmul_rows

Floats = npt.NDArray[np.float32]

COUNTS = [1, MAX_VECTORS, MAX_VECTORS + 1, 40]
FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (8, 96))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of the matrices below in a tile, so that a product takes several."""
    monkeypatch.setattr(matmul, "TILE_VALUES", 3 * 1280)


def vectors(count: int, length: int) -> Floats:
    return np.random.default_rng(1).standard_normal((count, length)).astype(np.float32)


def finite_rows(name: str, n_rows: int, n_blocks: int) -> Bytes:
    """Bytes that no half, float or exponent among them can make infinite or NaN."""
    return random_rows(name, n_rows, n_blocks) & np.uint8(0x3B)


def assert_product(found: Floats, weights: Floats, x: Floats) -> None:
    """As in float64, within some roundings of the sum of absolute products."""
    exact = x.astype(np.float64) @ weights.astype(np.float64).T
    bound = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    assert (np.abs(found - exact) <= 2e-6 * bound).all()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", PACKED)
def test_packed_rows(name: str, count: int) -> None:
    encoding = ENCODINGS[name]
    raw = finite_rows(name, 7, 1280 // encoding.block_size)
    x = vectors(count, 1280)
    assert_product(EncodedMatrix(raw, encoding).matmul(x), reference_decode(raw, name), x)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E4M3", "I8"])
def test_plain_rows(name: str, count: int) -> None:
    encoding = ENCODINGS[name]
    weights = (20 * vectors(7, 1280)).astype(encoding.dtype)
    x = vectors(count, 1280)
    found = EncodedMatrix(weights.view(np.uint8), encoding).matmul(x)
    assert_product(found, weights.astype(np.float32), x)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("first_row", [0, 5])
def test_fp8_rows_with_scales(first_row: int, count: int) -> None:
    rng = np.random.default_rng(2)
    codes = (20 * vectors(21, 1280)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.random((3, 14)).astype(np.float32)
    raw = codes.view(np.uint8)[first_row:]
    x = vectors(count, 1280)
    found = EncodedMatrix(raw, FP8, scales, first_row).matmul(x)
    assert_product(found, dequantize(codes, scales, (8, 96))[first_row:], x)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("columns", [(0, 1280), (256, 512), (100, 101), (7, 1000), (5, 5)])
def test_some_columns_into_a_part_of_a_result(columns: tuple[int, int], count: int) -> None:
    encoding = ENCODINGS["Q4_K"]
    raw = finite_rows("Q4_K", 7, 5)
    x = vectors(count, columns[1] - columns[0])
    out = np.full((count, 20), 9, np.float32)
    matmul_rows(raw, encoding, x, out[:, 3:10], columns=columns)
    assert_product(out[:, 3:10], reference_decode(raw, "Q4_K")[:, slice(*columns)], x)
    assert (out[:, :3] == 9).all()
    assert (out[:, 10:] == 9).all()


def test_columns_that_are_left_out_do_not_matter() -> None:
    """Not even where they hold what times zero is no zero."""
    weights = vectors(7, 64)
    weights[:, 10] = np.nan
    x = vectors(3, 20)
    out = np.empty((3, 7), np.float32)
    matmul_rows(weights.view(np.uint8), ENCODINGS["F32"], x, out, columns=(12, 32))
    assert_product(out, weights[:, 12:32], x)


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("shape", [(0, 1280), (7, 0), (7, 1280)])
def test_what_is_empty_gives_zeros(shape: tuple[int, int], count: int) -> None:
    rows, width = shape
    raw = np.zeros((rows, ENCODINGS["Q8_0"].row_bytes(width)), np.uint8)
    found = EncodedMatrix(raw, ENCODINGS["Q8_0"]).matmul(vectors(count, width))
    assert found.shape == (count, rows)
    assert not found.any()


def test_few_vectors_are_multiplied_without_decoding() -> None:
    assert is_fused(ENCODINGS["Q4_K"], MAX_VECTORS)
    assert not is_fused(ENCODINGS["Q4_K"], MAX_VECTORS + 1)
    assert not is_fused(ENCODINGS["F64"], 1)


def test_a_large_matrix_is_decoded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "TILE_VALUES", 1 << 18)
    matrix = EncodedMatrix(finite_rows("Q4_K", 4096, 8), ENCODINGS["Q4_K"])
    x = vectors(16, 2048)
    matrix.matmul(x)  # loads what is loaded once
    tracemalloc.start()
    try:
        matrix.matmul(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4096 * 2048 * 4 // 8


def test_nbytes_counts_scales() -> None:
    matrix = EncodedMatrix(np.zeros((8, 96), np.uint8), FP8, np.zeros((1, 1), np.float32))
    assert matrix.nbytes == 8 * 96 + 4


@pytest.mark.parametrize("count", [1, 40])
def test_what_does_not_fit_is_refused(count: int) -> None:
    q8, raw = ENCODINGS["Q8_0"], finite_rows("Q8_0", 7, 2)
    x, out = vectors(count, 64), np.empty((count, 7), np.float32)
    for wrong in (vectors(count, 32), vectors(count, 64)[0], vectors(count, 65)):
        with pytest.raises(TensorLayoutError):
            matmul_rows(raw, q8, wrong, out)
    with pytest.raises(TensorLayoutError):
        matmul_rows(raw[:, :-1], q8, x, out)
    with pytest.raises(TensorLayoutError):
        matmul_rows(raw, q8, x, out, columns=(1, 66))
    with pytest.raises(TensorLayoutError, match="scales"):
        matmul_rows(np.zeros((7, 64), np.uint8), FP8, x, out)
    for bad in (np.empty((count, 6), np.float32), np.empty((count + 1, 7), np.float32)):
        with pytest.raises(UsageError):
            matmul_rows(raw, q8, x, bad)


@pytest.mark.parametrize("count", [1, 40])
def test_blocks_that_nobody_decodes_are_refused(count: int) -> None:
    unknown = Encoding("Q9_X", 32, 8)
    with pytest.raises(UndecodableType):
        EncodedMatrix(np.zeros((3, 16), np.uint8), unknown).matmul(vectors(count, 64))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("limited", [True, False])
def test_threads_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, limited: bool, n_threads: int
) -> None:
    """Also where BLAS cannot be told to take one thread."""
    monkeypatch.setattr(matmul, "MIN_TILE_VALUES", 1)
    if not limited:
        monkeypatch.setattr(matmul, "one_thread", lambda: nullcontext(False))
    raw, x = finite_rows("Q4_K", 23, 5), vectors(40, 1280)
    out = np.empty((40, 23), np.float32)
    matmul_rows(raw, ENCODINGS["Q4_K"], x, out, n_threads=n_threads)
    assert_product(out, reference_decode(raw, "Q4_K"), x)


@pytest.mark.parametrize(("scale", "factor"), [(1e38, 1e-6), (3e-45, 1e4), (np.inf, 1), (np.nan, 1)])
def test_extreme_scales_count_alike_however_many_vectors_there_are(scale: float, factor: float) -> None:
    """What a value times its scale rounds to is what is multiplied: infinity and zero are not undone."""
    codes = np.full((3, 1280), 448, ml_dtypes.float8_e4m3fn)
    codes[1] = 2**-6
    scales = np.full((1, 14), scale, np.float32)
    x = np.full((MAX_VECTORS + 1, 1280), factor, np.float32)
    matrix = EncodedMatrix(codes.view(np.uint8), FP8, scales)
    few, many = matrix.matmul(x[:MAX_VECTORS]), matrix.matmul(x)
    with np.errstate(over="ignore"):
        weights = dequantize(codes, scales, (8, 96))
    exact = (x.astype(np.float64) @ weights.astype(np.float64).T).astype(np.float32)
    np.testing.assert_allclose(many, exact, rtol=1e-5)
    np.testing.assert_allclose(few, exact[:MAX_VECTORS], rtol=1e-5)


def test_values_without_a_product_are_no_floating_point_error() -> None:
    weights = np.array([[np.inf, 1], [3e38, 3e38]], np.float32)
    x = np.array([[0, 1], *([[3e38, 1]] * MAX_VECTORS)], np.float32)
    with np.errstate(all="raise"):
        found = EncodedMatrix(weights.view(np.uint8), ENCODINGS["F32"]).matmul(x)
    assert np.isnan(found[0, 0])
    assert np.isinf(found[1:]).all()
