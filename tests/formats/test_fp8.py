"""FP8 codes with block scales decode to code times scale, from any row on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.packed import assert_same_values
from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats.encodings import ENCODINGS, Encoding, with_scale_block
from wvindex.formats.fp8 import decode_fp8

# Exponent bits, mantissa bits, bias (OCP 8-bit floating point specification, table 1).
FORMATS = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}


def code_value(code: int, name: str) -> float:
    """One code's value, from the specification."""
    exponent_bits, mantissa_bits, bias = FORMATS[name]
    sign = -1.0 if code & 0x80 else 1.0
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = code & (1 << mantissa_bits) - 1
    if name == "F8_E4M3" and code & 0x7F == 0x7F:
        return math.nan
    if name == "F8_E5M2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa * 2.0**-mantissa_bits) * 2.0 ** (exponent - bias)


def reference(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], encoding: Encoding, first_row: int
) -> npt.NDArray[np.float32]:
    """Decode value by value."""
    assert encoding.scale_block is not None
    out = np.empty(codes.shape, np.float32)
    with np.errstate(all="ignore"):
        for i, j in np.ndindex(codes.shape):
            scale = scales[(first_row + i) // encoding.scale_block[0], j // encoding.scale_block[1]]
            out[i, j] = np.float32(code_value(int(codes[i, j]), encoding.name)) * scale
    return out


def decoded(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], encoding: Encoding, first_row: int = 0
) -> npt.NDArray[np.float32]:
    out = np.full(codes.shape, 7, np.float32)
    decode_fp8(codes, scales, encoding, out, first_row=first_row)
    return out


@pytest.mark.parametrize("name", FORMATS)
def test_every_code_has_the_value_of_the_specification(name: str) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    encoding = with_scale_block(ENCODINGS[name], (16, 16))
    one = np.ones((1, 1), np.float32)
    assert_same_values(decoded(codes, one, encoding), reference(codes, one, encoding, 0))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9),
    columns=st.integers(1, 9),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    offset=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_short_blocks_and_partial_rows(
    name: str, rows: int, columns: int, block: tuple[int, int], offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first_row = offset % block[0]
    codes = rng.integers(0, 256, (rows, columns), np.uint8)
    scale_shape = (-(-(first_row + rows) // block[0]) if rows else 0, -(-columns // block[1]))
    scales = rng.integers(0, 2**32, scale_shape, np.uint32).view(np.float32)
    encoding = with_scale_block(ENCODINGS[name], block)
    expected = reference(codes, scales, encoding, first_row)
    assert_same_values(decoded(codes, scales, encoding, first_row), expected)


def test_blocks_of_128_with_a_short_last_one() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (576, 2500), np.uint8)
    scales = rng.random((5, 20), np.float32)
    encoding = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))
    whole = decoded(codes, scales, encoding)
    rows, columns = np.array([0, 127, 128, 511, 512, 575]), np.array([0, 127, 128, 2431, 2432, 2499])
    for i in rows:
        for j in columns:
            expected = np.float32(code_value(int(codes[i, j]), "F8_E4M3")) * scales[i // 128, j // 128]
            np.testing.assert_equal(whole[i, j], expected)
    assert_same_values(decoded(codes[100:300], scales[:3], encoding, 100), whole[100:300])


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 1)])
def test_scales_that_do_not_cover_the_codes_are_refused(shape: tuple[int, int]) -> None:
    encoding = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))
    with pytest.raises(TensorLayoutError, match=r"expected: \(2, 1\)"):
        decoded(np.zeros((130, 64), np.uint8), np.ones(shape, np.float32), encoding)


@pytest.mark.parametrize("first_row", [-1, 4])
def test_a_first_row_outside_its_block_is_refused(first_row: int) -> None:
    encoding = with_scale_block(ENCODINGS["F8_E4M3"], (4, 4))
    with pytest.raises(TensorLayoutError, match=r"0\.\.3"):
        decoded(np.zeros((1, 4), np.uint8), np.ones((1, 1), np.float32), encoding, first_row)


@pytest.mark.parametrize("encoding", [ENCODINGS["F8_E4M3"], with_scale_block(ENCODINGS["I8"], (4, 4))])
def test_only_fp8_with_scales_is_decoded(encoding: Encoding) -> None:
    with pytest.raises(UndecodableType):
        decoded(np.zeros((1, 4), np.uint8), np.ones((1, 1), np.float32), encoding)
