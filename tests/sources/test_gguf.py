"""A GGUF checkpoint reads as the gguf package, and the bytes of the file, say."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gguf_bytes import ARRAY, BOOL, F32, STRING, U64, Record, array, pair, string, u32, u64
from tests.support.gguf_bytes import gguf as gguf_file
from tests.support.golden import COMMITTED, EXAMPLE
from tests.support.real_files import require_same_metadata, require_same_tensors
from wvindex.errors import MalformedHeader, SelectionError, TruncatedSource, UsageError
from wvindex.sources.base import Source
from wvindex.sources.gguf import GGUFSource

Q4_K_M = COMMITTED / "llama-tiny-Q4_K_M.gguf"
REAL_FILES = [EXAMPLE, Q4_K_M, COMMITTED / "llama-tiny-Q2_K.gguf"]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda p: p.stem)
def test_tensors_of_real_files_are_those_of_the_gguf_package(path: Path) -> None:
    require_same_tensors(path)


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda p: p.stem)
def test_metadata_of_real_files_are_those_of_the_gguf_package(path: Path) -> None:
    require_same_metadata(path)


def test_types_that_the_gguf_package_lacks_are_read() -> None:
    expected = np.load(COMMITTED / "type-zoo.expected.npz")
    with GGUFSource(COMMITTED / "type-zoo.gguf") as source:
        assert {"Q1_0", "Q2_0"} <= {t.encoding.name for t in source.tensors()}
        assert all(t.shape == (6, 768) for t in source.tensors())
        assert len(source.tensors()) >= len(expected.files) > 30


def test_it_is_a_source() -> None:
    path = EXAMPLE
    source: Source = GGUFSource(path)
    assert (source.path, source.format) == (path, "gguf")
    source.close()


def test_the_fingerprint_hashes_everything_before_the_data() -> None:
    path = EXAMPLE
    with GGUFSource(path) as source:
        data_start = min(t.offset for t in source.tensors())
        (fingerprint,) = source.fingerprint()
    status = path.stat()
    assert (fingerprint.name, fingerprint.size) == (path.name, status.st_size)
    assert fingerprint.mtime_ns == status.st_mtime_ns
    assert fingerprint.header_sha256 == hashlib.sha256(path.read_bytes()[:data_start]).hexdigest()
    assert fingerprint.header_nbytes == data_start


@given(fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_byte_ranges_equal_file_slices(fractions: tuple[float, float]) -> None:
    path = Q4_K_M
    with GGUFSource(path) as source:
        info = source.tensors()[3]
        start, stop = sorted(int(f * info.nbytes) for f in fractions)
        assert (
            bytes(source.read(info, start, stop))
            == path.read_bytes()[info.offset + start : info.offset + stop]
        )


def test_read_fills_the_caller_s_buffer() -> None:
    with GGUFSource(EXAMPLE) as source:
        info = next(t for t in source.tensors() if t.encoding.name == "F32")
        values = np.empty(4, np.float32)
        out = values.data
        assert source.read(info, 16, 32, out) is out
        assert values.tobytes() == bytes(source.read(info, 16, 32))


def test_reads_from_many_threads_do_not_disturb_each_other() -> None:
    path = EXAMPLE
    data = path.read_bytes()
    with GGUFSource(path) as source, ThreadPoolExecutor(8) as pool:
        infos = source.tensors() * 4
        read = list(pool.map(lambda t: bytes(source.read(t, 0, t.nbytes)), infos))
    assert read == [data[t.offset : t.offset + t.nbytes] for t in infos]


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (0, 17), (8, 4)])
def test_a_range_outside_the_tensor_is_refused(tmp_path: Path, start: int, stop: int) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source, pytest.raises(SelectionError):
        source.read(source.tensors()[0], start, stop)


@pytest.mark.parametrize("out", [bytearray(3), bytes(4), np.empty((4, 2), np.uint8)[:, 0]], ids=type)
def test_a_buffer_that_does_not_fit_is_refused(tmp_path: Path, out: Any) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source, pytest.raises(UsageError):
        source.read(source.tensors()[0], 0, 4, memoryview(out))


def test_a_file_cut_short_after_opening_is_reported_at_the_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source:
        info = source.tensors()[0]
        os.truncate(path, info.offset + 5)
        assert len(source.read(info, 0, 5)) == 5
        with pytest.raises(TruncatedSource) as caught:
            source.read(info, 0, 16)
    assert (caught.value.expected, caught.value.found) == ("16 bytes", "5 bytes")


def test_a_closed_source_refuses_to_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source:
        pass
    with pytest.raises(UsageError, match="closed"):
        source.read(source.tensors()[0], 0, 4)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_read_alike(tmp_path: Path, version: int) -> None:
    data = gguf_file(version=version, records=[Record(dims=(2, 3))], data=bytes(range(24)))
    with GGUFSource(_write(tmp_path / "m.gguf", data)) as source:
        (info,) = source.tensors()
        assert info.shape == (3, 2)
        assert bytes(source.read(info, 4, 8)) == bytes(range(4, 8))


def test_a_tensor_without_elements_is_valid(tmp_path: Path) -> None:
    data = gguf_file(records=[Record("empty", (4, 0)), Record("a")], data=bytes(16))
    with GGUFSource(_write(tmp_path / "m.gguf", data)) as source:
        info = next(t for t in source.tensors() if t.name == "empty")
        assert (info.shape, info.nbytes) == ((0, 4), 0)
        assert len(source.read(info, 0, 0)) == 0
        assert len(source.read(info, 0, 0, np.empty((0, 4), np.float32).data)) == 0


def test_a_file_of_metadata_alone_is_valid(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(pairs=[pair("n", U64, u64(7))], alignment=1))
    with GGUFSource(path) as source:
        assert source.config() == {"n": 7}
        assert source.tokenizer() is None
        assert source.fingerprint()[0].header_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_declared_alignment_is_obeyed(tmp_path: Path) -> None:
    data = gguf_file(
        pairs=[pair("general.alignment", 4, u32(256))], records=[Record()], data=b"x" * 16, alignment=256
    )
    with GGUFSource(_write(tmp_path / "m.gguf", data)) as source:
        (info,) = source.tensors()
        assert info.offset % 256 == 0
        assert bytes(source.read(info, 0, 16)) == b"x" * 16


def test_bytes_that_belong_to_no_tensor_are_noted(tmp_path: Path) -> None:
    records = [Record("a", offset=64), Record("b", offset=96)]
    path = _write(tmp_path / "m.gguf", gguf_file(records=records, data=bytes(200)))
    with GGUFSource(path) as source:
        first, last = (t.offset for t in source.tensors())
        assert source.notes == (
            f"m.gguf: bytes {first - 64} to {first} belong to no tensor",
            f"m.gguf: bytes {last + 16} to {path.stat().st_size} belong to no tensor",
        )


def test_padding_is_not_noted(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", gguf_file(records=[Record()], data=bytes(32)))
    with GGUFSource(path) as source:
        assert source.notes == ()


def test_a_large_vocabulary_reads_whole(tmp_path: Path) -> None:
    tokens = [f"token{i}é" for i in range(150_000)]
    merges = [f"a{i} b{i}" for i in range(150_000)]
    pairs = [
        pair("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(t) for t in tokens])),
        pair("tokenizer.ggml.merges", ARRAY, array(STRING, [string(m) for m in merges])),
        pair("tokenizer.ggml.scores", ARRAY, array(F32, [bytes(4)] * 150_000)),
    ]
    path = _write(tmp_path / "m.gguf", gguf_file(pairs=pairs, records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source:
        tokenizer = source.tokenizer()
        assert source.config() == {}
    assert tokenizer is not None
    assert tokenizer.gguf["tokenizer.ggml.tokens"] == tokens
    assert tokenizer.gguf["tokenizer.ggml.merges"] == merges
    assert tokenizer.gguf["tokenizer.ggml.scores"] == [0.0] * 150_000


def test_a_token_that_is_not_utf_8_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    tokens = array(STRING, [string("ok"), string(b"\xff")])
    path = _write(tmp_path / "m.gguf", gguf_file(pairs=[pair("tokenizer.ggml.tokens", ARRAY, tokens)]))
    with GGUFSource(path) as source, pytest.raises(MalformedHeader) as caught:
        source.tokenizer()
    assert caught.value.field == "tokenizer.ggml.tokens[1]"


def test_arrays_in_arrays_become_lists_in_lists(tmp_path: Path) -> None:
    inner = [array(U64, [u64(1), u64(2)]), array(STRING, [string("x")]), array(BOOL, [b"\1", b"\0"])]
    path = _write(tmp_path / "m.gguf", gguf_file(pairs=[pair("k", ARRAY, array(ARRAY, inner))]))
    with GGUFSource(path) as source:
        assert source.config() == {"k": [[1, 2], ["x"], [True, False]]}


SCALARS = {
    gguf.GGUFValueType.UINT8: st.integers(0, 2**8 - 1),
    gguf.GGUFValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    gguf.GGUFValueType.UINT16: st.integers(0, 2**16 - 1),
    gguf.GGUFValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    gguf.GGUFValueType.UINT32: st.integers(0, 2**32 - 1),
    gguf.GGUFValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    gguf.GGUFValueType.UINT64: st.integers(0, 2**64 - 1),
    gguf.GGUFValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    gguf.GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    gguf.GGUFValueType.FLOAT64: st.floats(allow_nan=False),
    gguf.GGUFValueType.BOOL: st.booleans(),
    gguf.GGUFValueType.STRING: st.text(st.characters(exclude_categories=["Cs"])),
}
TYPED_VALUES = st.sampled_from(list(SCALARS)).flatmap(lambda t: st.tuples(st.just(t), SCALARS[t]))
TYPED_ARRAYS = st.sampled_from(list(SCALARS)).flatmap(
    lambda t: st.tuples(st.just(t), st.lists(SCALARS[t], min_size=1, max_size=5))
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    scalars=st.dictionaries(NAMES.map("s.".__add__), TYPED_VALUES, max_size=5),
    arrays=st.dictionaries(NAMES.map("a.".__add__), TYPED_ARRAYS, max_size=5),
    shapes=st.dictionaries(NAMES, SHAPES, max_size=5),
    alignment=st.sampled_from([8, 32, 64]),
)
def test_what_the_gguf_package_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    scalars: dict[str, tuple[gguf.GGUFValueType, Any]],
    arrays: dict[str, tuple[gguf.GGUFValueType, list[Any]]],
    shapes: dict[str, list[int]],
    alignment: int,
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.add_custom_alignment(alignment)
    for key, (kind, value) in scalars.items():
        writer.add_key_value(key, value, kind)
    for key, (kind, values) in arrays.items():
        writer.add_key_value(key, values, gguf.GGUFValueType.ARRAY, sub_type=kind)
    tensors = {n: np.arange(np.prod(s), dtype=np.float32).reshape(s) for n, s in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUFSource(path) as source:
        config = dict(source.config())
        read = {
            t.name: np.frombuffer(source.read(t, 0, t.nbytes), np.float32).reshape(t.shape)
            for t in source.tensors()
        }
    assert config.pop("general.architecture") == "test"
    assert config.pop("general.alignment") == alignment
    assert config == {key: value for key, (_, value) in (scalars | arrays).items()}
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
