"""GGUF to a store and back: every tensor by name, type, shape and bytes, every key by type and value."""

from __future__ import annotations

import math
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wvindex
from tests.exporting.reading import gguf_fields, gguf_tensors
from tests.support import gguf_bytes
from tests.support.checkpoints import names
from tests.support.golden import COMMITTED, EXAMPLE
from tests.support.sealing import edit, seal
from tests.support.stores import Stores, require_same_store
from wvindex.errors import UnsupportedError

FAMILIES = names(gguf=True)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "Q8_0") for name in FAMILIES), ("gemma2", "BF16"), ("deepseek_v3", "F16")]
)
def test_a_file_comes_back_byte_for_byte(name: str, dtype: str, stores: Stores, tmp_path: Path) -> None:
    """Permuted Q and K, norms of 1 + w, stacks, split factors, fused projections, rotary factors."""
    source = stores.gguf(name, dtype=dtype)
    out = wvindex.export(stores.build(source, mla="keep"), tmp_path / "out.gguf", format="gguf")
    assert gguf_tensors(out) == gguf_tensors(source)
    assert gguf_fields(out) == gguf_fields(source)
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v2_lite", "deepseek_v3"])
@pytest.mark.parametrize("mla", ["kv_b", "split"])
def test_factors_come_back_from_a_store_of_both_forms(
    name: str, mla: Any, stores: Stores, tmp_path: Path
) -> None:
    """K's and V's factors were joined, and V2-Lite's queries turned."""
    source = stores.gguf(name, mla, "F32")
    out = wvindex.export(stores.build(source, mla="both"), tmp_path / "out.gguf", format="gguf")
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("path", [EXAMPLE, *sorted(COMMITTED.glob("*.gguf"))], ids=lambda path: path.stem)
def test_files_of_llama_cpp_come_back(path: Path, tmp_path: Path) -> None:
    """K-quants, and every type that there is."""
    store = wvindex.build(path, tmp_path / "store.zarr", mla="keep")
    assert wvindex.export(store, tmp_path / "out.gguf", format="gguf").read_bytes() == path.read_bytes()


def test_a_linked_store_gives_its_source_back(tmp_path: Path) -> None:
    source = shutil.copy(EXAMPLE, tmp_path / "source.gguf")
    store = wvindex.build(source, tmp_path / "store.zarr", mla="keep", link=True)
    out = wvindex.export(store, tmp_path / "out.gguf", format="gguf")
    assert out.read_bytes() == EXAMPLE.read_bytes()


def test_shards_become_one_file(stores: Stores, tmp_path: Path) -> None:
    parts = stores.gguf("mixtral", dtype="Q8_0", shards=3)
    store = wvindex.build(parts, tmp_path / "store.zarr")
    out = wvindex.export(store, tmp_path / "out.gguf", format="gguf")
    whole = stores.gguf("mixtral", dtype="Q8_0")
    assert gguf_tensors(out) == gguf_tensors(whole)
    assert gguf_fields(out) == gguf_fields(whole)


def test_a_file_becomes_shards_of_bounded_size(stores: Stores, tmp_path: Path) -> None:
    source = stores.gguf("mixtral", dtype="Q8_0")
    store = stores.build(source, mla="keep")
    out = wvindex.export(store, tmp_path / "out", format="gguf", max_shard_size="100 KiB")
    files = sorted(out.iterdir())
    assert [path.name for path in files] == [
        f"out-{i:05d}-of-{len(files):05d}.gguf" for i in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    found = [gguf_tensors(path) for path in files]
    assert {name: one for shard in found for name, one in shard.items()} == gguf_tensors(source)
    with wvindex.open(files[0]) as whole, wvindex.open(source) as expected:
        require_same_store(whole, expected)


def test_a_build_of_what_was_exported_is_the_same_store(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.gguf("gemma2", dtype="Q8_0"), mla="keep")
    out = wvindex.export(store, tmp_path / "out.gguf", format="gguf")
    again = wvindex.build(out, tmp_path / "again.zarr", mla="keep")
    with wvindex.open(store) as before, wvindex.open(again) as after:
        require_same_store(after, before)


def test_values_that_the_build_cast_stay_cast_and_the_file_says_so(stores: Stores, tmp_path: Path) -> None:
    store = wvindex.build(stores.gguf("llama", dtype="Q8_0"), tmp_path / "store.zarr", dtype="bfloat16")
    planned = wvindex.plan_export(store, tmp_path / "out.gguf", format="gguf")
    assert any("not in the encoding that their source had" in note for note in planned.notes)
    out = wvindex.export(store, tmp_path / "out.gguf", format="gguf")
    found, expected = gguf_tensors(out), gguf_tensors(stores.gguf("llama", dtype="BF16"))
    assert {name: one[:2] for name, one in found.items()} == {name: one[:2] for name, one in expected.items()}
    assert gguf_fields(out)["general.file_type"] == (("UINT32",), 32)


def test_a_dtype_casts_matrices_and_leaves_vectors(stores: Stores, tmp_path: Path) -> None:
    source = stores.gguf("llama", dtype="Q8_0")
    out = wvindex.export(source, tmp_path / "out.gguf", format="gguf", dtype="float16")
    types = {name: kind for name, (kind, _, _) in gguf_tensors(out).items()}
    assert types["blk.0.attn_q.weight"] == "F16"
    assert types["blk.0.attn_norm.weight"] == "F32"


class TestAStoreOfAnEarlierBuild:
    """It kept no metadata but their values."""

    @pytest.fixture
    def old(self, stores: Stores, tmp_path: Path) -> Path:
        store = shutil.copytree(stores.build(stores.gguf("qwen2", dtype="Q8_0"), mla="keep"), tmp_path / "s")
        return forget(Path(store))

    def test_is_exported_with_the_usual_types_and_says_so(
        self, old: Path, stores: Stores, tmp_path: Path
    ) -> None:
        source = stores.gguf("qwen2", dtype="Q8_0")
        planned = wvindex.plan_export(old, tmp_path / "out.gguf", format="gguf")
        assert any("before metadata were kept" in note for note in planned.notes)
        out = wvindex.export(old, tmp_path / "out.gguf", format="gguf")
        assert gguf_tensors(out) == gguf_tensors(source)
        assert gguf_fields(out) == gguf_fields(source)

    def test_refuses_tensors_that_became_configuration(self, stores: Stores, tmp_path: Path) -> None:
        store = shutil.copytree(stores.build(stores.gguf("llama", dtype="Q8_0"), mla="keep"), tmp_path / "s")
        with pytest.raises(UnsupportedError, match="did not keep it: build it again") as caught:
            wvindex.export(forget(Path(store)), tmp_path / "out.gguf", format="gguf")
        assert caught.value.tensor == "rope_freqs.weight"


def forget(store: Path) -> Path:
    """Make a store one that kept nothing below ``source/``."""
    shutil.rmtree(store / "source")
    edit(store / "catalog.json", lambda document: document.update(files=["tokenizer/gguf.json"]))
    return seal(store)


Value = tuple[int, bytes]


def unsigned(kind: int, bits: int) -> st.SearchStrategy[Value]:
    return st.integers(0, 2**bits - 1).map(lambda n: (kind, n.to_bytes(bits // 8, "little")))


SCALARS = st.one_of(
    *(unsigned(kind, bits) for kind, bits in ((0, 8), (2, 16), (4, 32), (10, 64))),
    st.integers(-(2**31), 2**31 - 1).map(lambda n: (5, n.to_bytes(4, "little", signed=True))),
    st.floats(width=32, allow_nan=False).map(lambda x: (6, struct.pack("<f", x))),
    st.floats(allow_nan=False).map(lambda x: (12, struct.pack("<d", x))),
    st.booleans().map(lambda b: (7, bytes([b]))),
    st.text(max_size=9).map(lambda text: (8, gguf_bytes.string(text))),
)
ARRAYS = st.one_of(
    st.lists(st.text(max_size=5), max_size=4).map(lambda v: (8, [gguf_bytes.string(x) for x in v])),
    st.lists(st.integers(0, 255), max_size=4).map(lambda v: (0, [bytes([x]) for x in v])),
    st.lists(st.booleans(), max_size=4).map(lambda v: (7, [bytes([x]) for x in v])),
    st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(
        lambda v: (6, [struct.pack("<f", x) for x in v])
    ),
    st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=3).map(
        lambda v: (9, [gguf_bytes.array(0, [bytes([x]) for x in inner]) for inner in v])
    ),
)
VALUES = SCALARS | ARRAYS.map(lambda found: (9, gguf_bytes.array(*found)))
KEYS = st.from_regex(r"(x|tokenizer|general)\.[a-z_]{1,6}", fullmatch=True).filter(
    lambda key: key != "general.alignment"
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(KEYS, VALUES, max_size=5),
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_a_file_says_it_comes_back(
    metadata: dict[str, tuple[int, bytes]], shapes: list[list[int]], seed: int, tmp_path: Path
) -> None:
    rng, records, data = random.Random(seed), [], b""
    for number, shape in enumerate(shapes):
        records.append(gguf_bytes.Record(f"tensor.{number}", shape, 24, len(data)))  # I8
        size = math.prod(shape)
        data += rng.randbytes(size) + bytes(-size % 32)
    pairs = [gguf_bytes.pair(key, *value) for key, value in metadata.items()]
    source = tmp_path / "source.gguf"
    source.write_bytes(gguf_bytes.gguf(pairs=pairs, records=records, data=data))
    out = wvindex.export(source, tmp_path / "out.gguf", format="gguf", overwrite=True)
    assert out.read_bytes() == source.read_bytes()
