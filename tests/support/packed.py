"""Packed blocks to test with, and what others decode from them."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from wvindex.formats.encodings import ENCODINGS

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

REPO_GOLDEN = Path(__file__).resolve().parents[1] / "golden"

PACKED = [name for name, encoding in ENCODINGS.items() if encoding.dtype is None]
OWN = ["Q1_0", "Q2_0", "Q8_1", "Q8_K"]
BY_GGUF = [name for name in PACKED if name not in OWN]

_ZOO_TYPES = {41: "Q1_0", 42: "Q2_0"}


@cache
def zoo() -> dict[str, Bytes]:
    """Give the encoded rows of every tensor of type-zoo.gguf, by type: (6, row_bytes).

    The gguf package's reader refuses the file, for a type that it lacks; its header is simple.
    """
    data = (REPO_GOLDEN / "type-zoo.gguf").read_bytes()
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(n_keys):  # strings, all of them
        at = _string(data, _string(data, at)[1] + 4)[1]
    records = []
    for _ in range(n_tensors):
        name, at = _string(data, at)
        n_dims, columns, rows, kind, offset = struct.unpack_from("<IQQIQ", data, at)
        assert (n_dims, rows) == (2, 6)
        records.append((name, columns, rows, kind, offset))
        at += 32
    start = -(-at // 32) * 32
    found = {}
    for name, columns, rows, kind, offset in records:
        type_name = _ZOO_TYPES.get(kind) or gguf.GGMLQuantizationType(kind).name
        assert name == f"t_{type_name}"
        row_bytes = ENCODINGS[type_name].row_bytes(columns)
        flat = np.frombuffer(data, np.uint8, rows * row_bytes, start + offset)
        found[type_name] = flat.reshape(rows, row_bytes)
    return found


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def reference_decode(raw: Bytes, name: str) -> Floats:
    """Decode rows without wvindex: by the gguf package, or by the formats' definition where it cannot."""
    if name in OWN:
        blocks = np.ascontiguousarray(raw).reshape(-1, ENCODINGS[name].type_size)
        scale, levels = _PARTS[name](blocks)
        with np.errstate(all="ignore"):
            values: Floats = scale.astype(np.float32) * levels.astype(np.float32)
        return values.reshape(raw.shape[0], -1)
    kind = gguf.GGMLQuantizationType[name]
    with np.errstate(all="ignore"):
        return np.asarray(gguf.dequantize(np.ascontiguousarray(raw), kind), np.float32)


def _field(blocks: Bytes, dtype: str, start: int, stop: int) -> npt.NDArray[Any]:
    return np.ascontiguousarray(blocks[:, start:stop]).view(dtype)


def _q1_0(blocks: Bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    signs = np.unpackbits(blocks[:, 2:18], axis=1, bitorder="little")
    return _field(blocks, "<f2", 0, 2), np.where(signs, 1, -1)


def _q2_0(blocks: Bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    i = np.arange(64)
    return _field(blocks, "<f2", 0, 2), (blocks[:, 2 + i // 4] >> i % 4 * 2 & 3).astype(np.int8) - 1


def _q8_1(blocks: Bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return _field(blocks, "<f2", 0, 2), _field(blocks, "i1", 4, 36)


def _q8_k(blocks: Bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return _field(blocks, "<f4", 0, 4), _field(blocks, "i1", 4, 260)


_PARTS = {"Q1_0": _q1_0, "Q2_0": _q2_0, "Q8_1": _q8_1, "Q8_K": _q8_k}
"""A block's scale, (blocks, 1), and its levels, (blocks, values). C multiplies them in float32."""


def random_rows(name: str, n_rows: int, n_blocks: int, seed: int = 0) -> Bytes:
    """Give rows of random bytes: blocks with any scale, infinities and NaN among them."""
    shape = (n_rows, n_blocks * ENCODINGS[name].type_size)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_same_values(found: Floats, expected: Floats) -> None:
    """Every value has the same bits; NaN stand at the same places, whatever their payload."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(bits(found)[~nan], bits(expected)[~nan])


def bits(values: Floats) -> npt.NDArray[np.uint32]:
    """Give the float32 values' bits."""
    return np.ascontiguousarray(values).view(np.uint32)
