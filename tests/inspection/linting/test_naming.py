"""WV7xx: names and encodings."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

import wvindex as wv
from tests.support.cli import succeed
from tests.support.packed import REPO_GOLDEN
from tests.support.planted import Array, edit_json, one_finding, planted
from tests.support.stores import Stores

UP = "model.layers.1.mlp.up_proj.weight"


def test_tensors_that_no_rule_maps(tmp_path: Path) -> None:
    add = {f"vision.{name}": np.ones(4, np.float32) for name in "ab"}
    found = one_finding(planted(tmp_path, "llama", add=add), "WV701")
    assert (found.severity, found.tensor, found.count) == ("info", "vision.a", 2)


def test_families_that_are_not_known(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama")
    edit_json(path / "config.json", model_type="mystery")
    assert one_finding(path, "WV702").value == "mystery"


def test_integer_codes(tmp_path: Path) -> None:
    def packed(values: Array) -> Array:
        return values.astype(np.float32).view(np.int32)

    found = one_finding(planted(tmp_path, "llama", {UP: packed}), "WV703", ignore=["WV704"])
    assert (found.severity, found.tensor, found.value) == ("warning", UP, "I32")


def test_one_role_in_several_plain_types(tmp_path: Path) -> None:
    def wide(values: Array) -> Array:
        return values.astype(np.float32)

    found = one_finding(planted(tmp_path, "llama", {UP: wide}), "WV704")
    assert (found.severity, found.tensor, found.value) == ("info", UP, "F32")
    assert found.message.endswith("is stored in 2 ways: BF16 2, F32 1")


def test_mixtures_of_packed_types_are_usual(stores: Stores, tmp_path: Path) -> None:
    """Of three matrices of a role one has another packed type, as Q4_K_M has."""
    source, out = gguf.GGUFReader(stores.gguf("llama", dtype="Q8_0")), tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(out, "llama")
    for field in source.fields.values():
        if field.name.startswith(("GGUF.", "general.architecture")):
            continue
        kind, part = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, part)
    for tensor in source.tensors:
        values, stored = tensor.data, tensor.tensor_type
        if tensor.name == "blk.1.ffn_up.weight":
            stored = gguf.GGMLQuantizationType.Q4_0
            values = gguf.quants.quantize(gguf.quants.dequantize(tensor.data, tensor.tensor_type), stored)
        writer.add_tensor(tensor.name, values, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with wv.open(out) as db:
        assert {db.layers[i].mlp.up_proj.encoding for i in range(3)} == {"Q8_0", "Q4_0"}
        assert wv.check(db).findings == ()


def test_transposed_matrices_of_a_family_that_is_not_known(tmp_path: Path) -> None:
    def turned(values: Array) -> Array:
        return np.ascontiguousarray(values.T)

    path = planted(tmp_path, "llama", {UP: turned})
    edit_json(path / "config.json", model_type="mystery")
    found = one_finding(path, "WV706", ignore=["WV702"])
    assert (found.severity, found.tensor) == ("warning", UP)
    assert "128x192, where 2 others of model.layers.*.mlp.up_proj.weight are 192x128" in found.message


def test_a_known_name_over_a_file_that_is_no_such_model() -> None:
    zoo = REPO_GOLDEN / "type-zoo.gguf"
    (found,) = wv.check(zoo, rules=["WV702"])
    assert (found.value, "llama is not known" in found.message) == ("llama", False)
    assert found.message.startswith("model_type llama does not fit the file's metadata or tensors")
    assert "model_type llama, but metadata or tensors that do not fit it" in succeed("info", zoo)
