"""A safetensors checkpoint reads as the safetensors package, and the bytes of the file, say."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from tests.support.real_files import require_same_checkpoint
from tests.support.safetensors_bytes import entry
from tests.support.safetensors_bytes import safetensors as safetensors_file
from tests.support.stores import Stores
from wvindex.errors import DuplicateName, MalformedHeader, SelectionError, TruncatedSource, UsageError
from wvindex.sources.base import Source
from wvindex.sources.safetensors import SafetensorsSource

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "deepseek_v3-fp8"])
def test_checkpoints_are_as_the_safetensors_package_says(stores: Stores, name: str) -> None:
    require_same_checkpoint(stores.safetensors(name))


def test_it_is_a_source(stores: Stores) -> None:
    directory = stores.safetensors("llama")
    source: Source = SafetensorsSource(directory)
    assert (source.path, source.format) == (directory, "safetensors")
    source.close()


def test_tensors_come_in_file_order(tmp_path: Path) -> None:
    header = {"second": entry(begin=8, end=16), "first": entry()}
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file(header, bytes(16)))
    with SafetensorsSource(path) as source:
        assert [t.name for t in source.tensors()] == ["first", "second"]


def test_the_fingerprint_hashes_length_and_json(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"a": entry()}))
    with SafetensorsSource(path) as source:
        (fingerprint,) = source.fingerprint()
    data, status = path.read_bytes(), path.stat()
    assert (fingerprint.name, fingerprint.size) == ("m.safetensors", len(data))
    assert fingerprint.mtime_ns == status.st_mtime_ns
    assert fingerprint.header_sha256 == hashlib.sha256(data[:-8]).hexdigest()
    assert fingerprint.header_nbytes == len(data) - 8


ARRAYS = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4).map(
        lambda shape: np.random.default_rng(len(shape)).integers(0, 2, shape).astype(dtype)
    )
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")


@settings(max_examples=60, deadline=None)
@given(
    tensors=st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=6),
    fractions=st.tuples(*[st.floats(0, 1)] * 2),
)
def test_what_the_safetensors_package_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], fractions: tuple[float, float]
) -> None:
    path = tmp_path_factory.mktemp("st") / "m.safetensors"
    save_file(tensors, path, metadata={"format": "np"})
    data = path.read_bytes()
    with SafetensorsSource(path) as source:
        infos = {t.name: t for t in source.tensors()}
        assert infos.keys() == tensors.keys()
        for name, info in infos.items():
            array = tensors[name]
            assert (info.shape, info.encoding.dtype) == (array.shape, array.dtype)
            assert bytes(source.read(info, 0, info.nbytes)) == array.tobytes()
            start, stop = sorted(int(f * info.nbytes) for f in fractions)
            assert bytes(source.read(info, start, stop)) == data[info.offset + start : info.offset + stop]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_has_the_encoding_of_its_name(tmp_path: Path, name: str) -> None:
    size = np.dtype(DTYPES[name]).itemsize
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"a": entry(name, (3,), 0, 3 * size)}, bytes(3 * size)))
    with SafetensorsSource(path) as source:
        (info,) = source.tensors()
    assert (info.encoding.name, info.encoding.dtype) == (name, np.dtype(DTYPES[name]))


def test_a_file_without_tensors_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({}, b""))
    with SafetensorsSource(path) as source:
        assert source.tensors() == ()
        assert source.config() == {}
        assert source.tokenizer() is None


def test_reads_are_held_to_the_tensor_and_the_buffer(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"a": entry()}))
    with SafetensorsSource(path) as source:
        (info,) = source.tensors()
        out = memoryview(bytearray(8))
        assert source.read(info, 0, 8, out) is out
        with pytest.raises(SelectionError):
            source.read(info, 0, 9)
        with pytest.raises(UsageError):
            source.read(info, 0, 7, out)
    with pytest.raises(UsageError, match="closed"):
        source.read(info, 0, 8)


def test_a_file_cut_short_after_opening_is_reported_at_the_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"a": entry()}))
    with SafetensorsSource(path) as source:
        (info,) = source.tensors()
        os.truncate(path, info.offset + 3)
        with pytest.raises(TruncatedSource):
            source.read(info, 0, 8)


def test_tokenizer_files_without_a_vocabulary_are_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_file({"a": entry()}))
    (tmp_path / "generation_config.json").write_text("{}")
    with SafetensorsSource(tmp_path) as source:
        assert source.tokenizer() is None
        (tmp_path / "vocab.json").write_text("{}")
        tokenizer = source.tokenizer()
    assert tokenizer is not None
    assert tokenizer.files == {"generation_config.json": b"{}", "vocab.json": b"{}"}


@pytest.mark.parametrize(
    ("text", "error"),
    [('{"a": 1, "a": 2}', DuplicateName), ("[1]", MalformedHeader), ('{"a": ', MalformedHeader)],
)
def test_a_configuration_is_read_strictly(tmp_path: Path, text: str, error: type[Exception]) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_file({"a": entry()}))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(error, match=r"config\.json"):
        SafetensorsSource(tmp_path)
