"""Packed blocks decode to the very bits that ggml's C code and the gguf package decode."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.formats.ggml import TILE_VALUES, can_decode, decode_blocks, tile_slices

FILES = [REPO_GOLDEN / f"llama-tiny-{kind}.gguf" for kind in ("Q2_K", "Q4_K_M")]


def decoded(raw: Bytes, name: str) -> Floats:
    encoding = ENCODINGS[name]
    out = np.empty((raw.shape[0], raw.shape[1] // encoding.type_size * encoding.block_size), np.float32)
    decode_blocks(raw, encoding, out)
    return out


@pytest.mark.parametrize("name", [name for name in PACKED if name not in ("Q8_1", "Q8_K")])
def test_every_type_decodes_to_what_c_decodes(name: str) -> None:
    expected = np.load(REPO_GOLDEN / "type-zoo.expected.npz")[name]
    np.testing.assert_array_equal(bits(decoded(zoo()[name], name)), bits(expected))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_llama_cpp_decode_to_their_hashes(path: Path) -> None:
    hashes = json.loads(path.with_suffix(".dequant.json").read_text())["tensors"]
    packed = [tensor for tensor in gguf.GGUFReader(path).tensors if tensor.tensor_type.name in PACKED]
    assert packed
    for tensor in packed:
        values = decoded(tensor.data, tensor.tensor_type.name)
        assert hashlib.sha256(values.tobytes()).hexdigest() == hashes[tensor.name]["f32_sha256"], tensor.name


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_as_elsewhere(name: str, data: st.DataObject) -> None:
    rows, blocks = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    raw = data.draw(hnp.arrays(np.uint8, (rows, blocks * ENCODINGS[name].type_size)))
    assert_same_values(decoded(raw, name), reference_decode(raw, name))


@pytest.mark.parametrize("name", PACKED)
def test_random_blocks_decode_as_elsewhere(name: str) -> None:
    raw = random_rows(name, 5, 40)
    assert_same_values(decoded(raw, name), reference_decode(raw, name))


@pytest.mark.parametrize(("rows", "columns"), [(1, 3 * TILE_VALUES + 64), (3, TILE_VALUES + 32), (70, 8192)])
def test_shapes_beyond_a_tile(rows: int, columns: int) -> None:
    raw = random_rows("Q4_0", rows, columns // 32)
    assert_same_values(decoded(raw, "Q4_0"), reference_decode(raw, "Q4_0"))


def test_strided_bytes_and_output() -> None:
    raw = random_rows("Q6_K", 8, 6)
    out = np.zeros((4, 1536), np.float32)
    decode_blocks(raw[::2, 210:-210], ENCODINGS["Q6_K"], out[:, 256:-256])
    assert_same_values(out[:, 256:-256], reference_decode(raw, "Q6_K")[::2, 256:-256])
    assert not out[:, :256].any()
    assert not out[:, -256:].any()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 12))
def test_tiles_cover_a_grid_once_and_stay_small(rows: int, units: int, limit: int) -> None:
    seen = np.zeros((rows, units), int)
    for tile in tile_slices(rows, units, limit):
        seen[tile] += 1
        assert 0 < seen[tile].size <= limit
    assert (seen == 1).all()


@pytest.mark.parametrize("name", ["Q4_K", "IQ3_S", "Q2_0"])
def test_memory_beside_the_output_is_bounded(name: str) -> None:
    raw = random_rows(name, 64, (1 << 16) // ENCODINGS[name].block_size)
    out = np.empty((64, 1 << 16), np.float32)
    decode_blocks(raw[:1], ENCODINGS[name], out[:1])
    tracemalloc.start()
    try:
        decode_blocks(raw, ENCODINGS[name], out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_every_listed_type_is_decodable() -> None:
    assert all(can_decode(ENCODINGS[name]) for name in PACKED)


def test_a_type_without_a_decoder_is_named() -> None:
    unknown = Encoding("Q9_Z", 32, 18)
    assert not can_decode(unknown)
    with pytest.raises(UndecodableType, match="Q9_Z"):
        decode_blocks(np.zeros((1, 18), np.uint8), unknown, np.empty((1, 32), np.float32))


@pytest.mark.parametrize("shape", [(1, 17), (2, 18), (1, 36)])
def test_rows_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(TensorLayoutError, match=r"expected: \(1, 18\)"):
        decode_blocks(np.zeros(shape, np.uint8), ENCODINGS["Q4_0"], np.empty((1, 32), np.float32))
