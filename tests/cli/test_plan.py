"""``wvindex plan``: the report, the ledger, the whole plan as JSON, and 4 where a build would be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

import wvindex
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE, document, invoke, succeed
from tests.support.safetensors_writer import write_safetensors


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Give the example's tensors, as the gguf package lists them."""
    return {tensor.name for tensor in gguf.GGUFReader(EXAMPLE).tensors}


@pytest.fixture
def incomplete(tmp_path: Path) -> Path:
    """A DeepSeek checkpoint that lacks one up-projection."""
    whole = checkpoint("deepseek_v3")
    missing = "model.layers.1.self_attn.kv_b_proj.weight"
    tensors = {name: tensor for name, tensor in whole.tensors.items() if name != missing}
    return write_safetensors(replace(whole, tensors=tensors), tmp_path / "incomplete")


def test_the_report_is_the_librarys() -> None:
    assert succeed("plan", EXAMPLE) == f"{wvindex.plan(EXAMPLE)}\n"


def test_the_ledger_tells_where_every_tensor_goes(names: set[str]) -> None:
    printed = succeed("plan", EXAMPLE, "--ledger")
    lines = [line.split(" -> ") for line in printed.splitlines() if " -> " in line]
    assert {tensor for tensor, _ in lines} == names
    assert ["blk.1.attn_q_a.weight", "model.layers.1.self_attn.q_proj.weight"] in lines
    assert ["blk.1.attn_q_a.weight", "model.layers.1.self_attn.latent_proj.weight"] in lines


def test_the_ledger_lists_every_array(kjv: Path) -> None:
    printed = succeed("plan", EXAMPLE, "--ledger")
    with wvindex.open(kjv) as db:
        assert all(f"\n{key}  " in printed for key in db)


def test_json_holds_operations_and_ledger(names: set[str], kjv: Path) -> None:
    plan = document("plan", EXAMPLE)
    assert {entry["tensor"] for entry in plan["ledger"]} == names
    with wvindex.open(kjv) as db:
        assert {operation["key"] for operation in plan["operations"]} == set(db)
        assert plan["bytes_out"] == sum(tensor.nbytes for tensor in db.values())
    assert plan["refusals"] == []
    assert plan["options"] == {"mla": "absorb", "dtype": "keep", "absorbed_dtype": "float32"}


def test_options_reach_the_plan() -> None:
    options = ("--mla", "both", "--dtype", "float16", "--absorbed-dtype", "bfloat16")
    encodings = {o["key"]: o["encoding"] for o in document("plan", EXAMPLE, *options)["operations"]}
    layer = "model.layers.1.self_attn"
    assert encodings[f"{layer}.q_proj.weight"] == "BF16"
    assert encodings[f"{layer}.q_b_proj.weight"] == "F16"
    assert encodings[f"{layer}.q_a_layernorm.weight"] == "F32"


def test_a_refused_build_exits_with_4_and_says_why(incomplete: Path) -> None:
    result = invoke("plan", incomplete)
    assert result.exit_code == 4
    refused = [line for line in result.stdout.splitlines() if line.startswith("refused")]
    assert len(refused) == 1
    assert "kv_b_proj" in refused[0]


def test_json_has_the_refusals(incomplete: Path) -> None:
    result = invoke("plan", incomplete, "--json")
    assert result.exit_code == 4
    (refusal,) = json.loads(result.stdout)["refusals"]
    assert refusal["kind"] == "metadata"
    assert "kv_b_proj" in refusal["message"]


def test_a_refused_tensor_is_refused_in_the_ledger(incomplete: Path) -> None:
    lines = invoke("plan", incomplete, "--ledger").stdout.splitlines()
    assert "model.layers.1.self_attn.q_a_proj.weight -> refused" in lines


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    succeed("plan", EXAMPLE)
    assert list(tmp_path.iterdir()) == []
