"""Exact counts of NaN and infinity in encoded rows, without decoding more than must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats.encodings import Encoding
from wvindex.formats.fp8 import decode_fp8, require_scales, scale_rows_of
from wvindex.formats.ggml import TILE_VALUES, decode_blocks, tile_slices
from wvindex.formats.kernels.nonfinite import FEW_BYTES, count_suspects, largest_magnitude

_Counts: TypeAlias = tuple[int, int]


class _ByteTest(NamedTuple):
    """Whether ``byte & mask >= at_least``, for the byte at `offset` of a block."""

    offset: int
    mask: int
    at_least: int


def _half(offset: int) -> tuple[_ByteTest, ...]:
    """Infinite or NaN little-endian float16 at `offset`: all exponent bits set."""
    return (_ByteTest(offset + 1, 0x7C, 0x7C),)


_SUSPICIOUS: Final[dict[str, tuple[tuple[_ByteTest, ...], ...]]] = {
    **{name: (_half(0),) for name in ("Q1_0", "Q2_0", "Q4_0", "Q5_0", "Q8_0", "Q8_1", "IQ4_NL", "IQ4_XS")},
    **{name: (_half(0),) for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")},
    **{name: (_half(0), _half(2)) for name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")},
    "Q2_K": (_half(80), _half(82)),
    "Q3_K": (_half(108),),
    "Q6_K": (_half(208),),
    "TQ1_0": (_half(52),),
    "TQ2_0": (_half(64),),
    # Float d times at most 128: overflows at an exponent of 247 or more; NaN and infinity have 255.
    "Q8_K": ((_ByteTest(3, 0x7F, 0x7B),),),
    # The half is spread over the top nibbles of four uint16 at 48; its exponent is in the last two of them.
    "IQ1_M": ((_ByteTest(55, 0x70, 0x70), _ByteTest(53, 0xC0, 0xC0)),),
    # 2^(e - 128) times at most 12 overflows from e = 253 on.
    "MXFP4": ((_ByteTest(0, 0xFF, 253),),),
    # An unsigned E4M3 of at most 240, times at most 12.
    "NVFP4": (),
}
"""Where a block's decoded values can be other than finite: any of these, each of them all its tests.
A finite half times the largest integers of its type stays far inside float32."""


class _FloatBits(NamedTuple):
    """How a plain float type writes infinity and NaN, the sign bit aside."""

    dtype: type[np.unsignedinteger[Any]]
    magnitude: int
    largest: int
    infinity: int | None


_PLAIN: Final[dict[str, _FloatBits]] = {
    "F64": _FloatBits(np.uint64, (1 << 63) - 1, (0x7FF << 52) - 1, 0x7FF << 52),
    "F32": _FloatBits(np.uint32, 0x7FFFFFFF, 0x7F7FFFFF, 0x7F800000),
    "F16": _FloatBits(np.uint16, 0x7FFF, 0x7BFF, 0x7C00),
    "BF16": _FloatBits(np.uint16, 0x7FFF, 0x7F7F, 0x7F80),
    "F8_E4M3": _FloatBits(np.uint8, 0x7F, 0x7E, None),
    "F8_E5M2": _FloatBits(np.uint8, 0x7F, 0x7B, 0x7C),
}

_LARGEST_CODE: Final = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
"""Largest finite values (OCP 8-bit floating point specification, table 1)."""


def count_nonfinite(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    scales: NDArray[np.float32] | None = None,
    *,
    first_row: int = 0,
) -> tuple[int, int]:
    """Count the decoded values that are NaN, and those that are infinite.

    Parameters
    ----------
    raw : array of uint8, shape (n_rows, row_bytes)
    encoding : Encoding
    scales : array of float32, optional
        For FP8 with scales, as `wvindex.formats.decode.decode_rows` takes them; so with `first_row`.

    Returns
    -------
    (int, int)
        NaN and infinite values; (0, 0) for integers.

    Raises
    ------
    UndecodableType
        If nobody decodes a packed encoding.
    TensorLayoutError
        If a row is not a whole number of blocks, or scales are missing.
    """
    if encoding.scale_block is not None:
        return _total(_fp8_counts(raw, encoding, scales, first_row))
    if not encoding.is_plain:
        return _total(_packed_counts(raw, encoding))
    if encoding.name in _PLAIN:
        return _total(_plain_counts(raw, _PLAIN[encoding.name]))
    return 0, 0


def _total(counts: Iterable[_Counts]) -> _Counts:
    n_nan = n_inf = 0
    for nan, inf in counts:
        n_nan += nan
        n_inf += inf
    return n_nan, n_inf


def _count_bits(bits: NDArray[Any], kind: _FloatBits) -> _Counts:
    """Count in an unsigned integer view of floats."""
    many = bits.nbytes >= FEW_BYTES and bits.flags.c_contiguous
    if many and largest_magnitude(bits, kind.magnitude) <= kind.largest:
        return 0, 0
    n_nonfinite = int(np.count_nonzero(bits & kind.dtype(kind.magnitude) > kind.dtype(kind.largest)))
    if not n_nonfinite or kind.infinity is None:
        return n_nonfinite, 0
    n_inf = int(np.count_nonzero(bits & kind.dtype(kind.magnitude) == kind.dtype(kind.infinity)))
    return n_nonfinite - n_inf, n_inf


def _plain_counts(raw: NDArray[np.uint8], kind: _FloatBits) -> Iterator[_Counts]:
    size = np.dtype(kind.dtype).itemsize
    _require_whole(raw, size, "values")
    for rows, values in tile_slices(raw.shape[0], raw.shape[1] // size, TILE_VALUES):
        yield _count_bits(raw[rows, values.start * size : values.stop * size].view(kind.dtype), kind)


def _packed_counts(raw: NDArray[np.uint8], encoding: Encoding) -> Iterator[_Counts]:
    """Decode the blocks whose scales are suspicious, and no others."""
    if encoding.name not in _SUSPICIOUS:
        raise UndecodableType("no decoder for this block type", found=encoding.name)
    size = encoding.type_size
    _require_whole(raw, size, f"{encoding.name} blocks")
    many = raw.nbytes >= FEW_BYTES and raw.flags.c_contiguous
    if many and not count_suspects(raw.reshape(-1, size), _tests(encoding.name)):
        return
    for rows, run in tile_slices(raw.shape[0], raw.shape[1] // size, TILE_VALUES // encoding.block_size):
        blocks = raw[rows, run.start * size : run.stop * size].reshape(-1, size)
        picked = blocks[_suspicious(blocks, encoding.name)]
        if len(picked):
            values = np.empty((len(picked), encoding.block_size), np.float32)
            decode_blocks(picked, encoding, values)
            yield _count_bits(values.view(np.uint32), _PLAIN["F32"])


@cache
def _tests(name: str) -> NDArray[np.int64]:
    """Give the tests of `_SUSPICIOUS` as `count_suspects` takes them."""
    groups = _SUSPICIOUS[name]
    rows = [(*test, int(test is group[-1])) for group in groups for test in group]
    return np.array(rows, np.int64).reshape(-1, 4)


def _suspicious(blocks: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    found = np.zeros(len(blocks), np.bool_)
    for tests in _SUSPICIOUS[name]:
        met = [(blocks[:, test.offset] & test.mask) >= test.at_least for test in tests]
        found |= np.logical_and.reduce(met)
    return found


def _fp8_counts(
    raw: NDArray[np.uint8], encoding: Encoding, scales: NDArray[np.float32] | None, first_row: int
) -> Iterator[_Counts]:
    """Count codes where the scales can neither overflow nor turn infinity to NaN; decode elsewhere."""
    if scales is None:
        raise TensorLayoutError("FP8 codes without their scales", found=encoding.name)
    require_scales(raw, scales, encoding, first_row)
    n_rows, n_columns = raw.shape
    for rows, _ in tile_slices(n_rows, 1, max(1, TILE_VALUES // max(1, n_columns))):
        part, offset = scale_rows_of(encoding, scales, first_row + rows.start, first_row + rows.stop)
        if _harmless(part, encoding):
            yield _count_bits(raw[rows], _PLAIN[encoding.name])
            continue
        values = np.empty(raw[rows].shape, np.float32)
        decode_fp8(raw[rows], part, encoding, values, first_row=offset)
        yield _count_bits(values.view(np.uint32), _PLAIN["F32"])


def _harmless(scales: NDArray[np.float32], encoding: Encoding) -> bool:
    """Whether every scale keeps finite codes finite and infinite ones infinite."""
    limit = float(np.finfo(np.float32).max) / _LARGEST_CODE[encoding.name]
    magnitude = np.abs(scales.astype(np.float64))
    return bool(np.all((magnitude > 0) & (magnitude <= limit)))


def _require_whole(raw: NDArray[np.uint8], size: int, what: str) -> None:
    if raw.shape[1] % size:
        raise TensorLayoutError(
            f"a row is not a whole number of {what}",
            expected=f"a multiple of {size} bytes",
            found=raw.shape[1],
        )
