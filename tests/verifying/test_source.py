"""A store beside its source: every array is compared by other packages' decoders, and changes are named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex
from tests.hostile import gguf_faults
from tests.support.changed_sources import changed, load_raw
from tests.support.checkpoints import GOLDEN_DIR, checkpoint
from tests.support.cli import EXAMPLE
from tests.support.safetensors_writer import write_safetensors
from tests.support.sealing import chunk_path, copied, edit, flip, only_fault, seal
from tests.support.stores import Stores
from wvindex.errors import SourceError
from wvindex.store.checksum import crc32c
from wvindex.store.reader import open_catalog
from wvindex.verifying import Verification, verify

ZOO = GOLDEN_DIR / "type-zoo.gguf"

CASTS = {"mla": "both", "dtype": "bfloat16", "absorbed_dtype": "float16"}

SAFETENSORS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"dtype": "float16"}),
    ("llama", {"link": True}),
    ("phi3-longrope", {}),
    ("mixtral", {}),
    ("gemma2", {"dtype": "float32"}),
    ("deepseek_v3", CASTS),
    ("deepseek_v3-bias", {}),
    ("deepseek_v3-halves", {}),
    ("deepseek_v2_lite", {}),
    ("deepseek_v3-fp8", {}),
    ("deepseek_v3-fp8", {"mla": "keep", "link": True}),
    ("deepseek_v3-fp8", CASTS),
    ("gpt_oss", {}),
    ("gpt_oss", {"dtype": "float16", "link": True}),
    ("glm_moe_dsa", {"mla": "keep"}),
    ("mistral4", {}),
    ("longcat_flash", CASTS),
]

GGUF: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "Q8_0", {}),
    ("mixtral", "Q4_0", {}),
    ("gemma2", "F16", {}),
    ("qwen2", "BF16", {"dtype": "float32"}),
    ("deepseek_v2_lite", "Q8_0", {}),
    ("deepseek_v3", "Q8_0", {"link": True}),
    ("deepseek_v3", "BF16", {"mla": "keep"}),
    ("deepseek_v3", "Q8_0", {"mla": "keep", "dtype": "float16"}),
    ("gpt_oss", "BF16", {}),
    ("mistral4", "Q8_0", {}),
    ("deepseek_v32", "F32", {}),
]


def require_all_compared(found: Verification, decoder: str) -> None:
    """No fault, and nothing left out but what no array holds and what links have no checksum of."""
    assert found.faults == ()
    assert found.compared == {decoder: found.arrays}
    assert {one.what for one in found.unchecked} <= {"checksum", "nonfinite", "values", "catalog"}
    left_out = [one for one in found.unchecked if one.what == "values"]
    assert all(one.reason == "in no array: config.rope" for one in left_out)


class TestASoundStore:
    @pytest.mark.parametrize(("name", "options"), SAFETENSORS, ids=str)
    def test_is_what_safetensors_and_ml_dtypes_read(
        self, stores: Stores, name: str, options: dict[str, Any]
    ) -> None:
        source = stores.safetensors(name)
        found = verify(stores.build(source, **options), source)
        require_all_compared(found, "safetensors and ml_dtypes")
        assert found.bytes_compared == sum(
            entry.spec.nbytes for entry in open_catalog(stores.build(source, **options)).arrays.values()
        )

    @pytest.mark.parametrize(("name", "dtype", "options"), GGUF, ids=str)
    def test_is_what_the_gguf_package_reads(
        self, stores: Stores, name: str, dtype: str, options: dict[str, Any]
    ) -> None:
        source = stores.gguf(name, "split", dtype)
        require_all_compared(verify(stores.build(source, **options), source), "gguf package")

    @pytest.mark.parametrize("name", ["deepseek_v3-fp8", "gpt_oss"])
    @pytest.mark.parametrize("experts", ["fused", "mixed"])
    def test_of_fused_experts(self, stores: Stores, name: str, experts: Any) -> None:
        source = stores.safetensors(name, "v5", experts)
        require_all_compared(verify(stores.build(source), source), "safetensors and ml_dtypes")

    def test_of_shards(self, stores: Stores) -> None:
        source = stores.safetensors("mixtral", "hub", "each", 3)
        require_all_compared(verify(stores.build(source), source), "safetensors and ml_dtypes")
        first = stores.gguf("llama", "split", "Q4_0", 3)
        assert first.name.endswith("-00001-of-00003.gguf")
        require_all_compared(verify(stores.build(first), first), "gguf package")

    def test_tells_what_no_other_package_decodes(self, tmp_path: Path) -> None:
        found = verify(wvindex.build(ZOO, tmp_path / "zoo.zarr"), ZOO)
        assert found.ok
        unchecked = {one.subject: one.reason for one in found.unchecked if one.what == "values"}
        assert unchecked == {
            "t_Q1_0": "the gguf package cannot decode Q1_0",
            "t_Q2_0": "the gguf package cannot decode Q2_0",
        }
        assert found.compared == {"gguf package": found.arrays - 2}
        (header,) = [one for one in found.unchecked if one.what == "header"]
        assert header.subject == ZOO.name


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a checkpoint in FP8 and its store, in which most arrays are computed."""
    directory = tmp_path_factory.mktemp("deepseek")
    source = write_safetensors(checkpoint("deepseek_v3-fp8"), directory / "model")
    return source, seal(wvindex.build(source, directory / "x.zarr"))


ATTENTION = "model.layers.0.self_attn"


class TestAChangedSource:
    @pytest.mark.parametrize(
        ("tensor", "place"),
        [
            ("model.embed_tokens.weight", (7, 3)),
            ("model.norm.weight", (5,)),
            (f"{ATTENTION}.q_a_proj.weight", (100, 200)),
            (f"{ATTENTION}.q_a_layernorm.weight", (64,)),
            (f"{ATTENTION}.q_b_proj.weight", (150, 3)),
            (f"{ATTENTION}.kv_a_proj_with_mqa.weight", (3, 3)),
            (f"{ATTENTION}.kv_a_proj_with_mqa.weight", (150, 3)),
            (f"{ATTENTION}.kv_a_layernorm.weight", (1,)),
            (f"{ATTENTION}.o_proj.weight", (255, 191)),
            (f"{ATTENTION}.o_proj.weight_scale_inv", (1, 1)),
            (f"{ATTENTION}.q_b_proj.weight_scale_inv", (0, 0)),
            ("model.layers.1.mlp.experts.3.up_proj.weight", (127, 255)),
            ("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv", (0, 1)),
            ("model.layers.1.mlp.gate.weight", (0, 0)),
            ("model.layers.1.mlp.gate.e_score_correction_bias", (2,)),
        ],
    )
    def test_one_weight_is_found_in_the_arrays_made_of_it_and_in_no_other(
        self, deepseek: tuple[Path, Path], tmp_path: Path, tensor: str, place: tuple[int, ...]
    ) -> None:
        source, store = deepseek

        def change(array: Any) -> None:
            array[place] = np.asarray(float(array[place]) * -2 + 0.5).astype(array.dtype)

        found = verify(store, changed(source, tmp_path, tensor, change))
        (line,) = [line for line in open_catalog(store).ledger if line.tensor == tensor]
        expected = set(line.keys)
        if "kv_a_proj" in tensor:  # its last rows are rotary: in K alone
            rotary = place[0] >= 128
            expected = {key for key in line.keys if (".k_proj." in key) >= rotary}
        assert {one.tensor for one in found.faults} == expected
        assert {one.kind for one in found.faults} <= {"source_bytes", "source_values"}
        for one in found.faults:
            assert tensor.removesuffix("_scale_inv") in one.expected

    def test_kv_b_is_found_in_k_or_in_v(self, deepseek: tuple[Path, Path], tmp_path: Path) -> None:
        source, store = deepseek
        name, nope, v = f"{ATTENTION}.kv_b_proj.weight", 64, 48
        for row, letter in ((nope + v - 1, "v"), (2 * (nope + v) + 5, "k")):

            def change(array: Any, row: int = row) -> None:
                array[row, 9] = -array[row, 9] * 2

            copy = changed(source, tmp_path / letter, name, change)
            fault = only_fault(store, copy)
            assert (fault.kind, fault.tensor) == ("source_values", f"{ATTENTION}.{letter}_proj.weight")
            assert "by more than float32's rounding" in fault.found

    def test_the_row_and_the_values_are_told(self, deepseek: tuple[Path, Path], tmp_path: Path) -> None:
        source, store = deepseek

        def change(array: Any) -> None:
            array[7:9, 3] += np.asarray(1).astype(array.dtype)

        fault = only_fault(store, changed(source, tmp_path, "model.embed_tokens.weight", change))
        assert (fault.kind, fault.path) == ("source_bytes", "model.embed_tokens.weight")
        assert fault.expected.endswith("at [7, 6], from model.embed_tokens.weight[7]")
        assert "; 2 of " in fault.found

    def test_another_time_of_change_or_name_is_noted(
        self, deepseek: tuple[Path, Path], tmp_path: Path
    ) -> None:
        source, store = deepseek
        copy = Path(shutil.copytree(source, tmp_path / "copy"))
        os.utime(copy / "model.safetensors", ns=(1, 1))
        found = verify(store, copy)
        assert found.ok
        assert found.notes == ("model.safetensors: its time of change is not what the store was made from",)

    def test_another_header_is_told_and_compared_nonetheless(
        self, deepseek: tuple[Path, Path], tmp_path: Path
    ) -> None:
        source, store = deepseek
        copy = Path(shutil.copytree(source, tmp_path / "copy"))
        tensors = load_raw(copy / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
        del tensors["model.layers.0.input_layernorm.weight"]
        tensors["other"] = np.zeros(3, np.float32)
        save_file(tensors, copy / "model.safetensors")
        found = verify(store, copy)
        kinds = [(one.kind, one.tensor) for one in found.faults]
        assert kinds == [
            ("source_changed", None),
            ("source_changed", None),
            ("source_file", None),
            ("ledger", "other"),
            ("source_tensor", "model.layers.0.input_layernorm.weight"),
            ("source_bytes", "model.norm.weight"),
        ]
        assert found.compared == {"safetensors and ml_dtypes": found.arrays - 1}

    def test_another_configuration_is_told(self, deepseek: tuple[Path, Path], tmp_path: Path) -> None:
        source, store = deepseek
        copy = Path(shutil.copytree(source, tmp_path / "copy"))
        edit(copy / "config.json", lambda config: config.update(rms_norm_eps=0.5))
        recorded, derived, kept = verify(store, copy).faults
        assert (kept.kind, kept.path) == ("source_file", "source/config.json")
        assert (recorded.kind, recorded.expected) == ("source_config", "rms_norm_eps: 0.5")
        assert (derived.kind, derived.expected) == ("source_catalog", "config.rms_norm_eps: 0.5")

    def test_another_model_is_told(self, deepseek: tuple[Path, Path], stores: Stores) -> None:
        found = verify(deepseek[1], stores.safetensors("llama"))
        assert "source_changed" in {one.kind for one in found.faults}
        assert sum(found.compared.values()) < found.arrays

    def test_a_weight_of_a_packed_file(self, sound: Path, tmp_path: Path) -> None:
        reader = gguf.GGUFReader(EXAMPLE)
        copy = tmp_path / EXAMPLE.name
        for name, key in (
            ("blk.1.ffn_down_exps.weight", "model.layers.1.mlp.experts.down_proj.weight"),
            ("output_norm.weight", "model.norm.weight"),
        ):
            shutil.copy2(EXAMPLE, copy)
            (tensor,) = [tensor for tensor in reader.tensors if tensor.name == name]
            flip(copy, int(tensor.data_offset + tensor.n_bytes) - 1, 6)
            fault = only_fault(sound, copy)
            assert (fault.kind, fault.tensor) == ("source_bytes", key)


class TestADamagedStore:
    @staticmethod
    def rewrite(store: Path, key: str, index: int, change: Callable[[Any], None]) -> None:
        """Change a chunk of float32, and make every checksum fit: only the source tells."""
        path = chunk_path(store, key, index)
        values = np.frombuffer(path.read_bytes(), np.float32).copy()
        change(values)
        path.write_bytes(values.tobytes())

        def fit(document: Any) -> None:
            document["arrays"][key]["crc32c"][index] = crc32c([path.read_bytes()])

        edit(store / "catalog.json", fit, sealed=True)

    @pytest.mark.parametrize("letter", ["q", "k", "v"])
    def test_a_computed_value_that_is_off_is_found(self, store: Path, letter: str) -> None:
        key = f"model.layers.2.self_attn.{letter}_proj.weight"

        def change(values: Any) -> None:
            values[np.argmax(np.abs(values))] *= np.float32(1.001)

        self.rewrite(store, key, 0, change)
        assert verify(store).ok
        fault = only_fault(store, EXAMPLE)
        assert (fault.kind, fault.tensor) == ("source_values", key)
        assert "1 of" in fault.found

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_a_computed_value_that_is_none_is_found(self, store: Path, value: float) -> None:
        key = "model.layers.0.self_attn.q_proj.weight"

        def change(values: Any) -> None:
            values[np.argmax(np.abs(values))] = value

        self.rewrite(store, key, 0, change)
        found = [one.kind for one in verify(store, EXAMPLE).faults if one.kind != "nonfinite"]
        assert found == ["source_values"]

    def test_rounding_is_no_fault(self, store: Path) -> None:
        def change(values: Any) -> None:
            values[:] = np.nextafter(values, np.float32(np.inf))

        self.rewrite(store, "model.layers.0.self_attn.v_proj.weight", 0, change)
        assert verify(store, EXAMPLE).ok

    def test_rotary_rows_of_k_must_be_equal(self, store: Path) -> None:
        def change(values: Any) -> None:
            values[5] = np.nextafter(values[5], np.float32(np.inf))

        key = "model.layers.0.self_attn.k_proj.weight"
        self.rewrite(store, key, 0, change)
        fault = only_fault(store, EXAMPLE)
        assert (fault.kind, fault.tensor) == ("source_values", key)
        assert "at [0, 5]" in fault.expected

    def test_rows_in_another_order_are_found(self, tmp_path: Path, stores: Stores) -> None:
        source = stores.gguf("llama", "split", "F32")
        store = seal(copied(stores.build(source), tmp_path))
        key = "model.layers.0.self_attn.q_proj.weight"
        width = open_catalog(store).arrays[key].spec.row_values

        def change(values: Any) -> None:
            rows = values.reshape(-1, width)
            rows[[0, 1]] = rows[[1, 0]]

        self.rewrite(store, key, 0, change)
        fault = only_fault(store, source)
        assert (fault.kind, fault.tensor) == ("source_bytes", key)
        assert "; 2 of" in fault.found

    def test_a_chunk_that_cannot_be_read_is_not_compared(self, store: Path) -> None:
        key = "model.norm.weight"
        chunk_path(store, key).unlink()
        found = verify(store, EXAMPLE)
        assert [(one.kind, one.tensor) for one in found.faults] == [("chunk_missing", key)]
        assert [one.subject for one in found.unchecked] == ["catalog.json", key]
        assert found.compared == {"gguf package": found.arrays - 1}

    def test_a_damaged_chunk_is_told_apart_from_a_damaged_source(self, store: Path) -> None:
        key = "model.layers.1.mlp.experts.gate_proj.weight"
        flip(chunk_path(store, key, 2), 1000)
        found = verify(store, EXAMPLE).faults
        assert [(one.kind, one.tensor) for one in found] == [("checksum", key), ("source_bytes", key)]
        assert found[0].chunk == found[1].chunk


class TestTheWitness:
    def test_is_not_wvindexs_decoder(self, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A decoder of wvindex's that were wrong would be found, though the bytes are the source's."""
        from wvindex.formats.decode import decode_rows
        from wvindex.verifying import comparing

        def wrong(raw: Any, encoding: Any, out: Any, **scaling: Any) -> None:
            decode_rows(raw, encoding, out, **scaling)
            if encoding.name == "Q8_0":
                out[0, 0] += 1

        monkeypatch.setattr(comparing, "decode_rows", wrong)
        found = verify(sound, EXAMPLE).faults
        packed = [
            key for key, entry in open_catalog(sound).arrays.items() if entry.spec.encoding.name == "Q8_0"
        ]
        assert [(one.kind, one.tensor) for one in found] == [("source_values", key) for key in packed]

    def test_does_not_see_a_hostile_header(self, sound: Path, tmp_path: Path) -> None:
        """49 bytes that would keep the gguf package busy for ever."""
        hostile = tmp_path / "hostile.gguf"
        hostile.write_bytes(gguf_faults.FILES["array-count-in-49-bytes"])
        with pytest.raises(SourceError):
            verify(sound, hostile)
