"""What a store keeps of its source besides weights says all that the source said."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

import wvindex
from tests.support import gguf_bytes
from tests.support.golden import EXAMPLE
from tests.support.stores import Stores
from wvindex.errors import CatalogError
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.gguf_kept import gguf_document, read_gguf_document
from wvindex.sources.kept import kept_files
from wvindex.sources.safetensors import SafetensorsSource


def test_a_store_of_gguf_keeps_every_key_with_its_type(tmp_path: Path) -> None:
    import gguf

    store = wvindex.build(EXAMPLE, tmp_path / "s.zarr")
    document = json.loads((store / "source/gguf-metadata.json").read_text())
    fields = gguf.GGUFReader(EXAMPLE).fields
    expected = {name: field for name, field in fields.items() if not name.startswith("GGUF.")}
    assert [entry["key"] for entry in document["metadata"]] == list(expected)
    for entry in document["metadata"]:
        kinds = [kind.name for kind in expected[entry["key"]].types]
        assert [entry["type"], *([entry["items"]] if "items" in entry else [])] == kinds
        if not entry["key"].startswith("tokenizer."):
            assert entry["value"] == expected[entry["key"]].contents()


def test_a_store_of_safetensors_keeps_its_documents_as_they_are(stores: Stores) -> None:
    source = stores.safetensors("mixtral", shards=3)
    store = stores.build(source)
    assert (store / "source/config.json").read_bytes() == (source / "config.json").read_bytes()
    index = (source / "model.safetensors.index.json").read_bytes()
    assert (store / "source/index.json").read_bytes() == index
    headers = json.loads((store / "source/safetensors.json").read_text())
    assert headers["index"] == "model.safetensors.index.json"
    assert headers["metadata"] == {
        path.name: {"format": "pt"} for path in sorted(source.glob("*.safetensors"))
    }


def test_a_checkpoint_without_a_configuration_has_none_to_keep(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        (stores.safetensors("qwen2") / "model.safetensors").read_bytes()
    )
    with SafetensorsSource(tmp_path) as source:
        assert list(kept_files(source, ())) == ["source/safetensors.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-45, 0.1])
def test_floats_come_back(value: float, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(
        gguf_bytes.gguf(pairs=[gguf_bytes.pair("x.y", gguf_bytes.F32, struct.pack("<f", value))])
    )
    with GGUFSource(path) as source:
        data = json.dumps(gguf_document(source, ())).encode()
    kept = read_gguf_document(data, {}, file="x")
    assert struct.pack("<f", kept.metadata["x.y"].value) == struct.pack("<f", value)


def document(*metadata: dict[str, object], tensors: object = ()) -> bytes:
    return json.dumps({"version": 3, "metadata": metadata, "tensors": tensors}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        document({"key": "a", "type": "UINT99", "value": 1}),
        document({"key": "a", "type": "UINT32", "value": "1"}),
        document({"key": "a", "type": "UINT32", "value": True}),
        document({"key": "a", "type": "STRING"}),
        document({"key": "a", "type": "ARRAY", "items": "BOOL", "value": [2]}),
        document(tensors=[{"name": "a", "type": "F32", "shape": [1], "data": "?"}]),
    ],
)
def test_a_document_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(CatalogError, match="not the metadata of a GGUF file"):
        read_gguf_document(data, {}, file="x")
