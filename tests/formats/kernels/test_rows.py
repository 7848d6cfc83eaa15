"""Kernels decode to the bits that C and the gguf package decode, into any rows of any float type."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.fp8 import dequantize
from tests.support.packed import (
    PACKED,
    REPO_GOLDEN,
    Bytes,
    Floats,
    assert_same_values,
    bits,
    random_rows,
    reference_decode,
    zoo,
)
from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats.encodings import BF16, ENCODINGS, F16, F32, Encoding, with_scale_block
from wvindex.formats.kernels import decode, decode_fp8_rows, decoder, narrow
from wvindex.formats.kernels.table import STREAMED

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NARROW = [np.dtype(np.float16), BFLOAT16]
FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))
PLAIN = {"F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}


def decoded(raw: Bytes, name: str, dtype: Any = np.float32, *, streaming: bool = False) -> npt.NDArray[Any]:
    encoding = ENCODINGS[name]
    kernel = decoder(encoding, dtype, streaming=streaming)
    assert kernel is not None
    out = np.empty((raw.shape[0], raw.shape[1] // encoding.type_size * encoding.block_size), dtype)
    kernel(raw, out)
    return out


def cast(values: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def assert_same_narrow(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """The same bits; NaN stand at the same places."""
    assert found.dtype == expected.dtype
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@pytest.mark.parametrize("name", [name for name in PACKED if name not in ("Q8_1", "Q8_K")])
def test_the_zoo_decodes_to_what_c_decodes(name: str) -> None:
    expected = np.load(REPO_GOLDEN / "type-zoo.expected.npz")[name]
    np.testing.assert_array_equal(bits(decoded(zoo()[name], name)), bits(expected))


@pytest.mark.parametrize("name", PACKED)
def test_random_blocks_decode_as_elsewhere(name: str) -> None:
    raw = random_rows(name, 5, 60)
    assert_same_values(decoded(raw, name), reference_decode(raw, name))


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_as_elsewhere(name: str, data: st.DataObject) -> None:
    rows, blocks = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 11))
    raw = data.draw(hnp.arrays(np.uint8, (rows, blocks * ENCODINGS[name].type_size)))
    assert_same_values(decoded(raw, name), reference_decode(raw, name))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "IQ2_S", "MXFP4"])
def test_narrow_output_is_the_float32_rounded(name: str, dtype: np.dtype[Any]) -> None:
    raw = random_rows(name, 3, 45)
    expected = cast(reference_decode(raw, name), dtype)
    assert_same_narrow(decoded(raw, name, dtype), expected)


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "TQ1_0", "BF16"])
@pytest.mark.parametrize("offset", range(9))
def test_streamed_output_is_the_same_at_any_address(name: str, offset: int) -> None:
    encoding = ENCODINGS[name]
    raw = np.random.default_rng(0).integers(0, 256, (4, encoding.row_bytes(1792)), np.uint8)
    kernel = decoder(encoding, np.float32, streaming=True)
    assert kernel is not None
    buffer = np.full((4, 1811), 7, np.float32)
    kernel(raw, buffer[:, offset : offset + 1792])
    assert_same_values(buffer[:, offset : offset + 1792], decoded(raw, name))
    assert (buffer[:, :offset] == 7).all()
    assert (buffer[:, offset + 1792 :] == 7).all()


def test_a_streamed_row_shorter_than_a_vector() -> None:
    values = np.array([[1, -2, 3]], np.float32).astype(BFLOAT16)
    assert decoded(values.view(np.uint8), "BF16", streaming=True).tolist() == [[1, -2, 3]]


def test_only_encodings_with_kernels_are_streamed() -> None:
    assert all(decoder(ENCODINGS[name], np.float32) for name in STREAMED)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *NARROW])
@pytest.mark.parametrize("name", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_every_code_of_a_plain_float(name: str, dtype: np.dtype[Any]) -> None:
    encoding = ENCODINGS[name]
    assert encoding.dtype is not None
    if dtype == encoding.dtype:
        assert decoder(encoding, dtype) is None
        return
    codes = np.arange(1 << PLAIN[name], dtype=f"u{encoding.type_size}").view(encoding.dtype)
    found = decoded(codes.view(np.uint8).reshape(1, -1), name, dtype)[0]
    if dtype == np.float32:
        assert_same_values(found, cast(codes, np.float32))
    else:
        assert_same_narrow(found, cast(codes.astype(np.float32), dtype))


@pytest.mark.parametrize("dtype", NARROW)
def test_float32_rounds_to_nearest_even_at_every_exponent(dtype: np.dtype[Any]) -> None:
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (high[:, None] | low).view(np.float32)
    found, expected = decoded(values.view(np.uint8), "F32", dtype), cast(values, dtype)
    assert_same_narrow(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("dtype", NARROW)
def test_ties_overflow_and_specials(dtype: np.dtype[Any]) -> None:
    values = [1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -1e30, 3.4e38, 6e-8, -0.0, 1e-45, np.inf, -np.inf]
    array = np.array([[*values, 2**-25, 3 * 2**-25, 2**-24, np.nan, -np.nan]], np.float32)
    assert_same_narrow(decoded(array.view(np.uint8), "F32", dtype), cast(array, dtype))


def test_narrow_takes_any_contiguous_shape() -> None:
    values = np.random.default_rng(3).standard_normal((40, 50, 60)).astype(np.float32)
    out = np.empty(values.shape, np.float16)
    assert narrow(values, out)
    np.testing.assert_array_equal(out, values.astype(np.float16))
    assert not narrow(values[:, ::2], out[:, ::2])
    doubles: Any = values.astype(np.float64)
    assert not narrow(doubles, out)


def test_strided_rows_and_read_only_bytes() -> None:
    raw = random_rows("Q6_K", 8, 6)
    raw.setflags(write=False)
    out = np.zeros((8, 2048), np.float32)
    assert decode(raw[::2, 210:-210], ENCODINGS["Q6_K"], out[1::2, 256:1280])
    assert_same_values(out[1::2, 256:1280], reference_decode(raw, "Q6_K")[::2, 256:1280])
    out[1::2, 256:1280] = 0
    assert not out.any()


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(0, 6), blocks=st.integers(0, 5), start=st.integers(0, 6))
def test_row_ranges(rows: int, blocks: int, start: int) -> None:
    raw = random_rows("Q5_1", rows, blocks)
    whole = reference_decode(raw, "Q5_1") if raw.size else np.empty((rows, blocks * 32), np.float32)
    out = np.empty((max(0, rows - start), blocks * 32), np.float32)
    assert decode(raw[start:], ENCODINGS["Q5_1"], out)
    assert_same_values(out, whole[start:])


@pytest.mark.parametrize(
    "out",
    [
        np.empty((4, 64), np.float32)[:, ::2],
        np.empty((32, 4), np.float32).T,
        np.empty((4, 32), np.float32)[::-1],
        np.broadcast_to(np.empty(32, np.float32), (4, 32)),
    ],
    ids=["columns", "transposed", "backwards", "broadcast"],
)
def test_outputs_that_kernels_cannot_fill_are_left_alone(out: Floats) -> None:
    raw = random_rows("Q4_0", 4, 1)
    assert not decode(raw, ENCODINGS["Q4_0"], out)
    kernel = decoder(ENCODINGS["Q4_0"], np.float32)
    assert kernel is not None
    with pytest.raises(TensorLayoutError, match="contiguous"):
        kernel(raw, out)


@pytest.mark.parametrize("shape", [(1, 17), (2, 18), (1, 36)])
def test_rows_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(TensorLayoutError, match="rows of Q4_0"):
        decode(np.zeros(shape, np.uint8), ENCODINGS["Q4_0"], np.empty((1, 32), np.float32))


def test_an_output_of_another_type_is_refused() -> None:
    kernel = decoder(ENCODINGS["Q4_0"], np.float32)
    assert kernel is not None
    with pytest.raises(TensorLayoutError, match="another dtype"):
        kernel(np.zeros((1, 18), np.uint8), np.empty((1, 32), np.float16))


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        (Encoding("Q9_Z", 32, 18), np.float32),
        (Encoding("Q4_0", 64, 36), np.float32),
        (ENCODINGS["F64"], np.float32),
        (ENCODINGS["I8"], np.float32),
        (ENCODINGS["Q4_0"], np.float64),
        (ENCODINGS["Q4_0"], np.dtype(">f4")),
        (F32, np.float32),
        (BF16, BFLOAT16),
        (FP8, np.float32),
    ],
    ids=str,
)
def test_what_has_no_kernel_gives_none(encoding: Encoding, dtype: npt.DTypeLike) -> None:
    assert decoder(encoding, dtype) is None


def test_few_plain_values_are_not_worth_a_kernel() -> None:
    raw = np.zeros((1, 1 << 18), np.uint8)
    out = np.empty((1, 1 << 17), np.float32)
    assert decode(raw, F16, out)
    assert not decode(raw[:, : 1 << 16], F16, out[:, : 1 << 15])


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *NARROW])
@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
def test_fp8_with_scales_is_code_times_scale(name: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(4)
    encoding = with_scale_block(ENCODINGS[name], (5, 40))
    assert encoding.dtype is not None
    codes = rng.integers(0, 256, (23, 130), np.uint8)
    scales = rng.integers(0, 2**32, (5, 4), np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = dequantize(codes.view(encoding.dtype), scales, (5, 40))
    out = np.empty((16, 130), dtype)
    decode_fp8_rows(codes[7:], scales[1:], encoding, out, first_row=2)
    if dtype == np.float32:
        assert_same_values(out, expected[7:])
    else:
        assert_same_narrow(out, cast(expected[7:], dtype))


def test_fp8_without_its_scales_is_left_alone() -> None:
    codes = np.zeros((2, 4), np.uint8)
    assert not decode(codes, FP8, np.empty((2, 4), np.float32))


def test_scales_that_do_not_cover_the_codes_are_refused() -> None:
    codes, out = np.zeros((130, 64), np.uint8), np.empty((130, 64), np.float32)
    with pytest.raises(TensorLayoutError, match=r"expected: \(2, 1\)"):
        decode_fp8_rows(codes, np.ones((1, 1), np.float32), FP8, out)
    with pytest.raises(UndecodableType, match="I8"):
        decode_fp8_rows(
            codes, np.ones((2, 1), np.float32), with_scale_block(ENCODINGS["I8"], (128, 128)), out
        )
