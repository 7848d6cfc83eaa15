"""One entry point decodes every encoding to every float type; casts round to nearest even."""

from __future__ import annotations

import struct
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.packed import PACKED, REPO_GOLDEN, assert_same_values, random_rows, reference_decode, zoo
from wvindex.errors import TensorLayoutError, UndecodableType, UsageError
from wvindex.formats.decode import decode_rows, encode_plain
from wvindex.formats.encodings import BF16, ENCODINGS, F16, F32, Encoding, with_scale_block

PLAIN = [name for name, encoding in ENCODINGS.items() if encoding.is_plain]
FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NARROW = [np.dtype(np.float16), BFLOAT16]


def decoded(raw: npt.NDArray[np.uint8], encoding: Encoding, dtype: Any, columns: int) -> npt.NDArray[Any]:
    out = np.empty((raw.shape[0], columns), dtype)
    decode_rows(raw, encoding, out)
    return out


def bf16_bits(value: np.float32) -> int:
    """The bits of a finite float32 rounded to bfloat16, to nearest even, in integers."""
    bits = int(value.view(np.uint32))
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def f16_bits(value: np.float32) -> int:
    """The bits of a float32 rounded to float16, to nearest even, by Python's struct."""
    try:
        return int.from_bytes(struct.pack("<e", float(value)), "little")
    except OverflowError:
        return 0xFC00 if value < 0 else 0x7C00


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"])
def test_plain_tensors_of_the_zoo(name: str) -> None:
    expected = np.load(REPO_GOLDEN / "type-zoo.expected.npz")[name]
    np.testing.assert_array_equal(decoded(zoo()[name], ENCODINGS[name], expected.dtype, 768), expected)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_come_back_byte_for_byte(name: str) -> None:
    encoding = ENCODINGS[name]
    limit = 2 if name == "BOOL" else 256
    raw = np.random.default_rng(0).integers(0, limit, (5, 12 * encoding.type_size), np.uint8)
    out = decoded(raw, encoding, encoding.dtype, 12)
    np.testing.assert_array_equal(out.view(np.uint8), raw)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *NARROW])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_become_floats(name: str, dtype: np.dtype[Any]) -> None:
    encoding = ENCODINGS[name]
    assert encoding.dtype is not None
    raw = np.random.default_rng(1).integers(0, 2, (3, 8 * encoding.type_size), np.uint8)
    values = np.frombuffer(raw.tobytes(), encoding.dtype).reshape(3, 8)
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    np.testing.assert_array_equal(decoded(raw, encoding, dtype, 8), expected)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", PACKED)
def test_packed_blocks_become_narrow_floats(name: str, dtype: np.dtype[Any]) -> None:
    raw = random_rows(name, 3, 4)
    exact = reference_decode(raw, name)
    with np.errstate(all="ignore"):
        expected = exact.astype(dtype).astype(np.float32)
        found = decoded(raw, ENCODINGS[name], dtype, exact.shape[1]).astype(np.float32)
    assert_same_values(found, expected)


def test_packed_blocks_become_float32_in_place() -> None:
    raw = random_rows("Q4_K", 3, 4)
    assert_same_values(decoded(raw, ENCODINGS["Q4_K"], np.float32, 1024), reference_decode(raw, "Q4_K"))


@pytest.mark.parametrize("dtype", NARROW)
def test_fp8_becomes_narrow_floats_over_several_tiles(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 0x78, (600, 4096), np.uint8)
    scales = rng.random((6, 32), np.float32)
    out = np.empty(codes.shape, dtype)
    decode_rows(codes, FP8, out, scales=scales, first_row=100)
    rows = (np.arange(600) + 100) // 128
    exact = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scales[rows].repeat(128, axis=1)
    np.testing.assert_array_equal(out, exact.astype(dtype))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_casts_round_to_nearest_even(values: npt.NDArray[np.float32]) -> None:
    half, brain = np.empty(20, np.float16), np.empty(20, BFLOAT16)
    encode_plain(values, F16, half)
    encode_plain(values, BF16, brain)
    assert half.view(np.uint16).tolist() == [f16_bits(value) for value in values]
    assert brain.view(np.uint16).tolist() == [bf16_bits(value) for value in values]


def test_ties_go_to_even_and_overflow_to_infinity() -> None:
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -1e30], np.float32)
    half = np.empty(5, np.float16)
    encode_plain(values, F16, half)
    assert half.tolist() == [1.0, 1 + 2**-9, 65504.0, np.inf, -np.inf]


def test_special_values_survive_casts() -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    for encoding in (F16, BF16, F32):
        out = np.empty(4, encoding.logical_dtype)
        encode_plain(values, encoding, out)
        np.testing.assert_array_equal(out.astype(np.float32), values)
        assert np.signbit(out[3])


@pytest.mark.parametrize("name", ["I8", "F64", "Q4_0", "F8_E4M3"])
def test_casts_to_other_encodings_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        encode_plain(np.ones(4, np.float32), ENCODINGS[name], np.empty(4, ENCODINGS[name].logical_dtype))


def test_a_cast_into_the_wrong_buffer_is_refused() -> None:
    with pytest.raises(UsageError):
        encode_plain(np.ones(4, np.float32), BF16, np.empty(4, np.float16))


@pytest.mark.parametrize(("name", "dtype"), [("Q4_0", np.int8), ("F32", np.float64), ("I32", np.int64)])
def test_other_output_types_are_refused(name: str, dtype: Any) -> None:
    with pytest.raises(UsageError):
        decoded(np.zeros((1, ENCODINGS[name].row_bytes(32)), np.uint8), ENCODINGS[name], dtype, 32)


def test_scaled_fp8_is_not_its_codes() -> None:
    with pytest.raises(UsageError):
        decoded(np.zeros((1, 4), np.uint8), FP8, ml_dtypes.float8_e4m3fn, 4)


def test_fp8_without_scales_is_refused() -> None:
    with pytest.raises(TensorLayoutError, match="without their scales"):
        decoded(np.zeros((1, 4), np.uint8), FP8, np.float32, 4)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TensorLayoutError, match=r"expected: \(2, 16\)"):
        decoded(np.zeros((2, 12), np.uint8), F32, np.float32, 4)


def test_an_unknown_block_type_is_named() -> None:
    with pytest.raises(UndecodableType, match="Q9_Z"):
        decoded(np.zeros((1, 18), np.uint8), Encoding("Q9_Z", 32, 18), np.float16, 32)
