"""Zarr reads encoded chunks through the codecs: every selection, only the bytes it needs, never a write."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from tests.support.encoded_arrays import (
    ARRAYS,
    FP8,
    Written,
    finite_rows,
    fp8_array,
    ggml_matrix,
    ggml_stack,
    write_array,
)
from tests.support.packed import PACKED, assert_same_values, random_rows, reference_decode
from wvindex.errors import CatalogError, ChunkError, ReadOnlyArray, TensorLayoutError, UndecodableType
from wvindex.formats.dtypes import register_data_types
from wvindex.formats.encodings import ENCODINGS
from wvindex.store.codec import FP8BlockCodec, GGMLCodec, codec_metadata


@pytest.fixture(scope="module", params=ARRAYS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    make = ARRAYS[str(request.param)]
    return make(tmp_path_factory.mktemp("arrays") / "a")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return ggml_matrix(tmp_path_factory.mktemp("matrix") / "a")


def opened(written: Written) -> zarr.Array[Any]:
    array = zarr.open_array(written.path, mode="r")
    assert isinstance(array, zarr.Array)
    return array


# --- values ---


@pytest.mark.parametrize("name", PACKED)
def test_every_packed_type_reads_as_the_gguf_package_decodes(name: str, tmp_path: Path) -> None:
    n_blocks = 512 // ENCODINGS[name].block_size
    raw = random_rows(name, 6, n_blocks)
    chunks = {"0/0": raw[:4].tobytes(), "1/0": raw[4:].tobytes()}
    write_array(tmp_path / "a", (6, 512), (4, 512), codec_metadata(ENCODINGS[name], 2), chunks)
    values = np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...])
    assert_same_values(values, reference_decode(raw, name))


def test_the_entry_point_serves_plain_zarr(tmp_path: Path) -> None:
    script = (
        "import sys, hashlib, numpy, zarr\n"
        "assert not any(name.startswith('wvindex') for name in sys.modules)\n"
        "for path in sys.argv[1:]:\n"
        "    values = numpy.ascontiguousarray(zarr.open_array(path, mode='r')[...])\n"
        "    print(values.dtype, hashlib.sha256(values.tobytes()).hexdigest())\n"
    )
    arrays = [make(tmp_path / name) for name, make in ARRAYS.items()]
    command = [sys.executable, "-W", "error", "-c", script, *(str(array.path) for array in arrays)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    hashes = [hashlib.sha256(np.ascontiguousarray(array.values).tobytes()).hexdigest() for array in arrays]
    assert result.stderr == ""
    assert result.stdout.splitlines() == [f"float32 {expected}" for expected in hashes]


def test_whole_arrays(written: Written) -> None:
    assert_same_values(np.asarray(opened(written)[...]), written.values)


@pytest.mark.parametrize(("name", "n"), [("Q4_K", 512), ("Q8_0", 96)])
def test_packed_vectors(name: str, n: int, tmp_path: Path) -> None:
    raw = finite_rows(name, 1, n // ENCODINGS[name].block_size)
    write_array(tmp_path / "a", (n,), (n,), codec_metadata(ENCODINGS[name], 1), {"0": raw.tobytes()})
    array = zarr.open_array(tmp_path / "a", mode="r")
    expected = reference_decode(raw, name)[0]
    for selection in (slice(None), slice(3, n, 7), 5):
        np.testing.assert_array_equal(np.asarray(array[selection]), expected[selection])
    np.testing.assert_array_equal(np.asarray(array.oindex[np.array([9, 1, 1])]), expected[[9, 1, 1]])


# --- selections ---


def indices(size: int) -> st.SearchStrategy[int]:
    return st.integers(-size, size - 1)


def basic(size: int) -> st.SearchStrategy[Any]:
    bound = st.none() | st.integers(-size - 1, size + 1)
    return indices(size) | st.builds(slice, bound, bound, st.none() | st.integers(1, 5))


def orthogonal(size: int) -> st.SearchStrategy[Any]:
    arrays = st.lists(indices(size), min_size=1, max_size=6).map(np.array)
    masks = st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)
    return basic(size) | arrays | masks


def numpy_orthogonal(values: npt.NDArray[Any], selection: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Apply one selector an axis, each alone; the last axis first, since integers drop theirs."""
    for axis in reversed(range(len(selection))):
        values = values[(slice(None),) * axis + (selection[axis],)]
    return values


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_basic_selections(written: Written, data: st.DataObject) -> None:
    selection = tuple(data.draw(basic(size)) for size in written.values.shape)
    np.testing.assert_array_equal(np.asarray(opened(written)[selection]), written.values[selection])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_orthogonal_selections(written: Written, data: st.DataObject) -> None:
    selection = tuple(data.draw(orthogonal(size)) for size in written.values.shape)
    expected = numpy_orthogonal(written.values, selection)
    np.testing.assert_array_equal(np.asarray(opened(written).oindex[selection]), expected)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), n=st.integers(1, 8))
def test_coordinate_selections(written: Written, data: st.DataObject, n: int) -> None:
    coordinates = tuple(
        np.array(data.draw(st.lists(indices(size), min_size=n, max_size=n))) for size in written.values.shape
    )
    found = np.asarray(opened(written).vindex[coordinates])
    np.testing.assert_array_equal(found, written.values[coordinates])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.001, 0.3, 1.0]))
def test_mask_selections(written: Written, seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random(written.values.shape) < density
    np.testing.assert_array_equal(np.asarray(opened(written).vindex[mask]), written.values[mask])


def test_block_selections(written: Written) -> None:
    array = opened(written)
    rows = array.chunks[-2]
    selection = (slice(None),) * (array.ndim - 2) + (slice(0, rows), slice(None))
    block = (slice(None),) * (array.ndim - 2) + (0, 0)
    np.testing.assert_array_equal(np.asarray(array.blocks[block]), written.values[selection])


# --- bytes read ---


WHOLE = (-1, -1)


class CountingStore(LocalStore):
    """A store that notes what is read of chunks: the range asked for, or `WHOLE`."""

    reads: list[tuple[int, int]]

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key.startswith("c/"):
            span = (byte_range.start, byte_range.end) if isinstance(byte_range, RangeByteRequest) else WHOLE
            self.reads.append(span)
        return await super().get(key, prototype, byte_range)


def counted(path: Path) -> tuple[zarr.Array[Any], list[tuple[int, int]]]:
    store = CountingStore(path, read_only=True)
    store.reads = []
    array = zarr.open_array(store, mode="r")
    assert isinstance(array, zarr.Array)
    return array, store.reads


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (np.s_[3], [(3, 4)]),
        (np.s_[2:5, ::3], [(2, 5)]),
        (np.s_[1:7:3], [(1, 5)]),
        (np.s_[6:10], [(6, 8), (0, 2)]),
        (np.s_[17:19], [(1, 3)]),
        (np.s_[4:4], []),
    ],
)
def test_only_the_rows_needed_are_read(matrix: Written, selection: Any, rows: list[tuple[int, int]]) -> None:
    array, reads = counted(matrix.path)
    np.testing.assert_array_equal(np.asarray(array[selection]), matrix.values[selection])
    assert sorted(reads) == sorted((first * 432, last * 432) for first, last in rows)


def test_a_row_of_one_expert_is_read_alone(tmp_path: Path) -> None:
    stack = ggml_stack(tmp_path / "a")
    array, reads = counted(stack.path)
    np.testing.assert_array_equal(np.asarray(array[2, 5:7]), stack.values[2, 5:7])
    assert reads == [(420, 3 * 420)]


def test_fp8_rows_are_read_with_their_scale_rows(tmp_path: Path) -> None:
    matrix = fp8_array(tmp_path / "a", 1, 22, 8)
    array, reads = counted(matrix.path)
    np.testing.assert_array_equal(np.asarray(array[5:7]), matrix.values[5:7])
    assert reads == [(100, 140), (160 + 12, 160 + 24)]


def test_fp8_rows_of_a_short_chunk_find_their_scales(tmp_path: Path) -> None:
    matrix = fp8_array(tmp_path / "a", 1, 22, 8)
    array, reads = counted(matrix.path)
    np.testing.assert_array_equal(np.asarray(array[20:22]), matrix.values[20:22])
    assert reads == [(80, 120), (120 + 12, 120 + 24)]


# --- chunks that are not as they should be ---


@pytest.fixture
def broken(tmp_path: Path) -> Written:
    return ggml_matrix(tmp_path / "a")


@pytest.mark.parametrize("length", [0, 1, 431, 6 * 432 - 1, 6 * 432 + 1, 7 * 432, 8 * 432 - 1, 8 * 432 + 1])
def test_a_chunk_of_another_length_is_an_error(broken: Written, length: int) -> None:
    chunk = broken.path / "c" / "2" / "0"
    chunk.write_bytes(bytes(length))
    with pytest.raises(ChunkError, match="2592 or 3456 bytes") as caught:
        opened(broken)[16:22]
    assert caught.value.found == length
    assert str(chunk) in str(caught.value)


def test_a_row_beyond_a_truncated_chunk_is_an_error(broken: Written) -> None:
    (broken.path / "c" / "0" / "0").write_bytes(bytes(432 * 2 + 5))
    with pytest.raises(ChunkError, match="too short") as caught:
        opened(broken)[2:4]
    assert (caught.value.offset, caught.value.found) == (2 * 432, 5)


@pytest.mark.parametrize("selection", [np.s_[...], np.s_[1:3]])
@pytest.mark.parametrize("make", [ggml_matrix, ARRAYS["fp8-matrix"]])
def test_a_missing_chunk_is_an_error_not_zeros(make: Any, selection: Any, tmp_path: Path) -> None:
    array = make(tmp_path / "a")
    (array.path / "c" / "0" / "0").unlink()
    with pytest.raises(ChunkError, match="missing"):
        opened(array)[selection]


def test_fp8_rows_of_a_chunk_of_another_length_are_an_error(tmp_path: Path) -> None:
    array = fp8_array(tmp_path / "a", 1, 22, 8)
    (array.path / "c" / "0" / "0").write_bytes(bytes(150))
    with pytest.raises(ChunkError, match="144 or 184 bytes"):
        opened(array)[1:3]


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 9 * 20 + 40).filter(lambda n: n not in (8 * 20 + 24, 6 * 20 + 24)))
def test_whole_fp8_chunks_have_one_of_two_lengths(
    length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = fp8_array(tmp_path_factory.mktemp("fp8") / "a", 1, 22, 8)
    (array.path / "c" / "1" / "0").write_bytes(bytes(length))
    with pytest.raises(ChunkError):
        opened(array)[8:16]


# --- inside other codecs ---


def test_compressed_chunks(tmp_path: Path) -> None:
    raw = finite_rows("Q4_K", 22, 3)
    zarr.create_array(
        tmp_path / "bytes",
        shape=(22, 432),
        chunks=(8, 432),
        dtype=np.uint8,
        compressors=ZstdCodec(),
    )[...] = raw
    written = ggml_matrix(tmp_path / "a")
    codecs = [*codec_metadata(ENCODINGS["Q4_K"], None), {"name": "zstd", "configuration": {"level": 0}}]
    metadata = json.loads((written.path / "zarr.json").read_text()) | {"codecs": codecs}
    (written.path / "zarr.json").write_text(json.dumps(metadata))
    for i in range(3):
        data = (tmp_path / "bytes" / "c" / str(i) / "0").read_bytes()
        (written.path / "c" / str(i) / "0").write_bytes(data)
    array = opened(written)
    for selection in (np.s_[...], np.s_[3:19:2, 5], np.s_[21]):
        np.testing.assert_array_equal(np.asarray(array[selection]), written.values[selection])


def sharding(inner: list[dict[str, Any]], chunk: tuple[int, int]) -> dict[str, Any]:
    """Give the sharding codec over chunks of `inner` codecs."""
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {"chunk_shape": chunk, "codecs": inner, "index_codecs": index, "index_location": "end"}
    return {"name": "sharding_indexed", "configuration": configuration}


@pytest.mark.parametrize("name", ["Q4_K", "Q5_0"])
def test_chunks_in_shards(name: str, tmp_path: Path) -> None:
    row_bytes = ENCODINGS[name].row_bytes(768)
    raw = finite_rows(name, 24, 768 // ENCODINGS[name].block_size)
    zarr.create_array(
        tmp_path / "bytes", shape=raw.shape, chunks=(4, row_bytes), shards=(12, row_bytes), dtype=np.uint8,
        compressors=None,
    )[...] = raw  # fmt: skip
    codec = sharding(codec_metadata(ENCODINGS[name], None), (4, 768))
    shards = {f"{i}/0": (tmp_path / "bytes" / "c" / str(i) / "0").read_bytes() for i in range(2)}
    write_array(tmp_path / "a", (24, 768), (12, 768), [codec], shards)
    array, expected = zarr.open_array(tmp_path / "a", mode="r"), reference_decode(raw, name)
    for selection in (np.s_[...], np.s_[3:19:2, 5], np.s_[21], np.s_[11:13, ::7]):
        np.testing.assert_array_equal(np.asarray(array[selection]), expected[selection])
    np.testing.assert_array_equal(
        np.asarray(array.oindex[np.array([23, 2]), np.array([5, 1])]), expected[[23, 2]][:, [5, 1]]
    )


# --- writing ---


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("selection", [np.s_[...], np.s_[0:8], np.s_[1, 5]])
@pytest.mark.parametrize("make", [ggml_matrix, ARRAYS["fp8-stack"]])
def test_writing_decoded_values_is_refused_and_harms_nothing(
    make: Any, selection: Any, value: float, tmp_path: Path
) -> None:
    written = make(tmp_path / "a")
    before = snapshot(written.path)
    array = zarr.open_array(written.path, mode="r+")
    with pytest.raises(ReadOnlyArray):
        array[selection] = value
    assert snapshot(written.path) == before


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_writing_compressed_chunks_is_refused_too(value: float, tmp_path: Path) -> None:
    codecs = [*codec_metadata(ENCODINGS["Q8_0"], None), {"name": "zstd", "configuration": {"level": 0}}]
    write_array(tmp_path / "a", (4, 32), (4, 32), codecs, {"0/0": b"kept"})
    array = zarr.open_array(tmp_path / "a", mode="r+")
    with pytest.raises(ReadOnlyArray, match="Q8_0"):
        array[...] = value
    assert (tmp_path / "a" / "c" / "0" / "0").read_bytes() == b"kept"


# --- metadata ---


@pytest.mark.parametrize("codec", [GGMLCodec("Q4_K"), GGMLCodec("Q4_K", 3)])
def test_ggml_settings_survive_json(codec: GGMLCodec) -> None:
    assert GGMLCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


@pytest.mark.parametrize("codec", [FP8BlockCodec("F8_E5M2", (128, 64)), FP8BlockCodec("F8_E4M3", (4, 8), 2)])
def test_fp8_settings_survive_json(codec: FP8BlockCodec) -> None:
    assert FP8BlockCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


@pytest.mark.parametrize("name", [name for name, encoding in ENCODINGS.items() if encoding.is_plain])
def test_plain_encodings_have_zarr_s_own_codec(name: str) -> None:
    little = [{"name": "bytes", "configuration": {"endian": "little"}}]
    expected = little if ENCODINGS[name].type_size > 1 else [{"name": "bytes"}]
    assert codec_metadata(ENCODINGS[name], 3) == expected


def test_encoded_rows_have_the_codec_of_their_encoding() -> None:
    ggml = {"name": "wvindex.ggml", "configuration": {"type": "Q4_K", "edge_rows": 3}}
    assert codec_metadata(ENCODINGS["Q4_K"], 3) == [ggml]
    fp8 = {"name": "wvindex.fp8_block", "configuration": {"type": "F8_E4M3", "scale_block": [4, 8]}}
    assert codec_metadata(FP8, None) == [fp8]


@pytest.mark.parametrize("name", ["Q9_Z", "F32", "F8_E4M3", 7])
def test_other_block_types_are_refused_by_name(name: Any) -> None:
    with pytest.raises(UndecodableType, match=str(name)):
        GGMLCodec(name)


@pytest.mark.parametrize("edge_rows", [0, -1, 1.5, True, "3"])
def test_an_impossible_edge_is_refused(edge_rows: Any) -> None:
    with pytest.raises(CatalogError, match="edge_rows"):
        GGMLCodec("Q4_K", edge_rows)


@pytest.mark.parametrize("block", [(0, 8), (4,), (4, 8, 1), (4, 1.5), (True, 8), 4, "48"])
def test_an_impossible_scale_block_is_refused(block: Any) -> None:
    with pytest.raises(CatalogError, match="scale_block"):
        FP8BlockCodec("F8_E4M3", block)


@pytest.mark.parametrize("name", ["Q4_K", "BF16", ["F8_E4M3"]])
def test_only_fp8_has_scale_blocks(name: Any) -> None:
    with pytest.raises(UndecodableType, match="FP8"):
        FP8BlockCodec(name, (4, 8))


@pytest.mark.parametrize("settings", [{}, {"type": "Q4_K", "rows": 3}])
def test_settings_missing_or_unknown_are_refused(settings: Any) -> None:
    with pytest.raises(CatalogError, match="edge_rows"):
        GGMLCodec.from_dict({"name": "wvindex.ggml", "configuration": settings})


@pytest.mark.parametrize(
    ("shape", "chunk", "encoding", "edge", "changes", "error", "message"),
    [
        ((22, 768), (8, 768), "Q4_K", 6, {"data_type": "float16"}, CatalogError, "data_type"),
        ((22, 768), (8, 768), "Q4_K", 5, {}, CatalogError, "expected: 6"),
        ((16, 768), (8, 768), "Q4_K", 4, {}, CatalogError, "expected: 8"),
        ((22, 768), (8, 256), "Q4_K", 6, {}, CatalogError, "chunk_shape"),
        ((3, 8, 768), (3, 8, 768), "Q4_K", None, {}, CatalogError, "chunk_shape"),
        ((768,), (256,), "Q4_K", None, {}, CatalogError, "chunk_shape"),
        ((8, 300), (8, 300), "Q4_K", None, {}, TensorLayoutError, "multiple of 256"),
        ((22, 20), (6, 20), "FP8", 4, {}, CatalogError, "multiple of 4 rows"),
    ],
)
def test_metadata_that_contradicts_the_codec_is_refused(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    encoding: str,
    edge: int | None,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    codecs = codec_metadata(FP8 if encoding == "FP8" else ENCODINGS[encoding], edge)
    write_array(tmp_path / "a", shape, chunk, codecs, {}, **changes)
    with pytest.raises(error, match=message):
        zarr.open_array(tmp_path / "a", mode="r")


# --- plain arrays ---


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_arrays_open_in_tensorstore_and_zarr(name: str, tmp_path: Path) -> None:
    register_data_types()
    encoding = ENCODINGS[name]
    values = np.random.default_rng(0).standard_normal((10, 6)).astype(encoding.logical_dtype)
    padded = np.zeros((12, 6), encoding.logical_dtype)
    padded[:10] = values
    chunks = {f"{i}/0": padded[4 * i : 4 * i + 4].tobytes() for i in range(3)}
    codecs = codec_metadata(encoding, 2)
    write_array(tmp_path / "a", (10, 6), (4, 6), codecs, chunks, data_type=encoding.logical_dtype.name)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a")}}
    store = tensorstore.open(spec, read=True).result()
    np.testing.assert_array_equal(store.read().result(), values)
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...]), values)
