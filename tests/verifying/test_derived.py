"""A catalog or a tokenizer that was edited and given new checksums: only the source tells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import EXAMPLE
from tests.support.sealing import copied, edit, only_fault, seal
from tests.support.stores import Stores
from wvindex.store.metadata import array_metadata
from wvindex.store.reader import open_catalog
from wvindex.verifying import verify

Q, K, GATE, UP = (
    f"model.layers.1.{name}.weight"
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.experts.gate_proj", "mlp.experts.up_proj")
)


def reseal(store: Path, change: Callable[[Any], None]) -> None:
    """Change the catalog, and make all else of the store agree with it."""
    edit(store / "catalog.json", change, sealed=True)
    for entry in open_catalog(store).arrays.values():
        document = array_metadata(entry.spec, entry.grid)
        (store / entry.path / "zarr.json").write_text(json.dumps(document))
    assert verify(store).ok


def only_claim(store: Path, source: Path, change: Callable[[Any], None]) -> tuple[str | None, str]:
    """Give the array and the member of the only fault that a change makes."""
    reseal(store, change)
    fault = only_fault(store, source)
    assert (fault.kind, fault.path) == ("source_catalog", "catalog.json")
    return fault.tensor, fault.expected.partition(":")[0]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rms_norm_eps", lambda config: config.update(rms_norm_eps=1e-4)),
        ("rope", lambda config: config["rope"]["full_attention"]["inv_freq"].__setitem__(3, 0.5)),
        ("rope", lambda config: config["rope"]["full_attention"].update(attention_factor=1.5)),
        ("moe", lambda config: config["moe"].update(routed_scaling_factor=7.0)),
        ("moe", lambda config: config["moe"].update(norm_topk_prob=not config["moe"]["norm_topk_prob"])),
        ("attention_scale", lambda config: config.update(attention_scale=0.25)),
        ("mla", lambda config: config["mla"].update(norm_eps=1e-3)),
        ("eos_token_ids", lambda config: config.update(eos_token_ids=[7])),
        ("attention_form", lambda config: config.update(attention_form="factored")),
        ("refuses_to_run", lambda config: config.update(refuses_to_run=["no"])),
        ("hidden_act", lambda config: config.update(hidden_act="gelu")),
    ],
)
def test_a_configuration_that_was_edited(store: Path, field: str, change: Callable[[Any], None]) -> None:
    found = only_claim(store, EXAMPLE, lambda document: change(document["config"]))
    assert found == (None, f"config.{field}")


@pytest.mark.parametrize(
    ("key", "member", "change"),
    [
        (Q, "row_scale", lambda entry: entry.update(row_scale=None)),
        (Q, "row_scale", lambda entry: entry["row_scale"].update(eps=1e-3)),
        (K, "row_scale", lambda entry: entry["row_scale"].update(rows=[0, 8])),
        (K, "row_scale", lambda entry: entry["row_scale"].update(head_slice=[0, 8])),
        (
            Q,
            "row_scale",
            lambda e: e["row_scale"].update(weight="model.layers.2.self_attn.latent_proj.weight"),
        ),
        (Q, "heads", lambda entry: entry.update(heads=None)),
        (GATE, "aliases", lambda entry: entry.update(aliases=["other"])),
        (GATE, "aliases", lambda entry: entry.update(aliases=[])),
        (GATE, "part_aliases", lambda entry: entry.update(part_aliases=["a", "b", "c", "d"])),
        (GATE, "mtp", lambda entry: entry.update(mtp=True)),
        (GATE, "mapped", lambda entry: entry.update(mapped=False)),
    ],
)
def test_an_entry_that_was_edited(store: Path, key: str, member: str, change: Callable[[Any], None]) -> None:
    assert only_claim(store, EXAMPLE, lambda document: change(document["arrays"][key])) == (key, member)


def test_aliases_that_were_swapped(store: Path) -> None:
    def swap(document: Any) -> None:
        first, second = (document["arrays"][key] for key in (GATE, UP))
        first["aliases"], second["aliases"] = second["aliases"], first["aliases"]

    reseal(store, swap)
    found = verify(store, EXAMPLE).faults
    assert {(one.kind, one.tensor) for one in found} == {("source_catalog", GATE), ("source_catalog", UP)}


def test_arrays_that_were_swapped_with_all_that_names_them(tmp_path: Path, stores: Stores) -> None:
    """Each is its own tensor bit by bit, and stands under the other's key."""
    source = stores.safetensors("llama")
    store = copied(stores.build(source), tmp_path)
    keys = tuple(f"model.layers.{layer}.input_layernorm.weight" for layer in (0, 1))

    def swap(document: Any) -> None:
        arrays, ledger = document["arrays"], document["ledger"]
        first, second = (arrays[key] for key in keys)
        for name in ("sources", "crc32c"):
            first[name], second[name] = second[name], first[name]
        for line in ledger:
            if line["tensor"] in keys:
                line["keys"] = [keys[1 - keys.index(line["keys"][0])]]
        chunks = [store / one["path"] / "c.0" for one in (first, second)]
        data = [chunk.read_bytes() for chunk in chunks]
        for chunk, content in zip(chunks, reversed(data), strict=True):
            chunk.write_bytes(content)

    reseal(store, swap)
    found = verify(store, source).faults
    assert {(one.kind, one.tensor) for one in found} == {("source_catalog", key) for key in keys}


def test_an_array_that_was_left_out(store: Path) -> None:
    key = "model.norm.weight"

    def leave_out(document: Any) -> None:
        del document["arrays"][key]
        for line in document["ledger"]:
            if line["keys"] == [key]:
                line.update(keys=[], reason="config.rope")

    shutil.rmtree(store / key)
    reseal(store, leave_out)
    found = {(one.kind, one.tensor) for one in verify(store, EXAMPLE).faults}
    assert found == {("ledger", "output_norm.weight"), ("source_catalog", key)}


def test_a_tokenizer_of_gguf_that_was_edited(store: Path) -> None:
    def swap(document: Any) -> None:
        tokens = document["tokenizer.ggml.tokens"]
        tokens[300], tokens[301] = tokens[301], tokens[300]

    path = store / "tokenizer/gguf.json"
    edit(path, swap)
    seal(store)
    assert verify(store).ok
    fault = only_fault(store, EXAMPLE)
    assert (fault.kind, fault.path) == ("source_tokenizer", "tokenizer/gguf.json")
    assert fault.expected.startswith("tokenizer.ggml.tokens: ")


def test_a_tokenizer_that_was_left_out(store: Path) -> None:
    shutil.rmtree(store / "tokenizer")
    reseal(store, lambda document: document.update(files=["source/gguf-metadata.json"]))
    fault = only_fault(store, EXAMPLE)
    assert (fault.kind, fault.path) == ("source_tokenizer", "tokenizer/gguf.json")


def test_metadata_of_gguf_that_were_edited(store: Path) -> None:
    path = store / "source/gguf-metadata.json"
    edit(path, lambda document: document["metadata"][0].update(value="another"))
    seal(store)
    fault = only_fault(store, EXAMPLE)
    assert (fault.kind, fault.path) == ("source_file", "source/gguf-metadata.json")


def test_metadata_of_gguf_that_were_left_out(store: Path) -> None:
    """As in a store of a build that did not keep them: no fault, but said."""
    shutil.rmtree(store / "source")
    reseal(store, lambda document: document.update(files=["tokenizer/gguf.json"]))
    found = verify(store, EXAMPLE)
    assert found.faults == ()
    assert [note for note in found.notes if "an older build's" in note]


def test_a_file_of_a_tokenizer_that_was_edited(tmp_path: Path, stores: Stores) -> None:
    source = Path(shutil.copytree(stores.safetensors("llama"), tmp_path / "model"))
    (source / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    import wvindex

    store = wvindex.build(source, tmp_path / "x.zarr")
    assert verify(store, source).ok
    path = store / "tokenizer/tokenizer_config.json"
    path.write_bytes(path.read_bytes().replace(b"<s>", b"<t>"))
    seal(store)
    fault = only_fault(store, source)
    assert (fault.kind, fault.path) == ("source_tokenizer", "tokenizer/tokenizer_config.json")
    assert "from byte 16 on" in fault.found


@pytest.mark.parametrize("damage", ["missing", "edited"])
def test_an_array_without_its_document_stops_nothing(store: Path, damage: str) -> None:
    path = store / "model.norm.weight/zarr.json"
    if damage == "missing":
        path.unlink()
    else:
        edit(path, lambda document: document.update(data_type="int32"))
    found = verify(store, EXAMPLE)
    assert [(one.kind, one.tensor) for one in found.faults] == [("metadata", "model.norm.weight")]
    assert [(one.what, one.subject) for one in found.unchecked] == [
        ("catalog", "catalog.json"),
        ("values", "model.norm.weight"),
    ]
    assert found.compared == {"gguf package": found.arrays - 1}
