"""``wvindex export``: the path of what was written; a plan, as text, JSON and CSV; refusals with code 4."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, succeed
from tests.support.stores import Stores
from tests.support.trees import names


def test_prints_the_path(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert succeed("export", EXAMPLE, out, "--format", "gguf") == f"{out}\n"
    assert out.read_bytes() == EXAMPLE.read_bytes()


def test_says_on_stderr_what_was_written_unless_quiet(tmp_path: Path) -> None:
    told = invoke("export", EXAMPLE, tmp_path / "a.gguf", "--format", "gguf")
    assert told.stderr.startswith("52 tensors, 4.2 MiB, in ")
    assert invoke("export", EXAMPLE, tmp_path / "b.gguf", "--format", "gguf", "-q").stderr == ""


def test_json_is_the_plan(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    expected = wv.plan_export(EXAMPLE, out, format="gguf").to_dict()
    found = document("export", EXAMPLE, out, "--format", "gguf", "--dry-run")
    assert found == {**expected, "tensors": [{**t, "shape": list(t["shape"])} for t in expected["tensors"]]}
    assert names(tmp_path) == []
    assert document("export", EXAMPLE, out, "--format", "gguf") == found
    assert names(tmp_path) == ["out.gguf"]


def test_csv_has_a_row_a_tensor(tmp_path: Path) -> None:
    text = succeed("export", EXAMPLE, tmp_path / "o", "--format", "gguf", "--dry-run", "--csv")
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["name", "dtype", "shape", "nbytes", "file"]
    assert len(rows) == 52
    assert rows[0][:2] == ["output.weight", "Q8_0"]


def test_a_dry_run_lists_refusals_and_exits_with_4(tmp_path: Path) -> None:
    result = invoke("export", EXAMPLE, tmp_path / "out", "--format", "safetensors", "--dry-run")
    assert result.exit_code == 4
    planned = wv.plan_export(EXAMPLE, tmp_path / "out", format="safetensors")
    assert result.stdout.count("\nrefused  ") == len(planned.refusals) > 35
    assert names(tmp_path) == []


def test_a_refusal_exits_with_4_and_writes_nothing(tmp_path: Path) -> None:
    result = invoke("export", EXAMPLE, tmp_path / "out", "--format", "safetensors")
    assert result.exit_code == 4
    assert "safetensors has no packed types; give a dtype" in result.stderr
    assert names(tmp_path) == []


def test_options_are_the_library_s(stores: Stores, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--dtype", "float32", "--no-tokenizer", "--max-shard-size", "4MiB", "--max-memory", "512MiB")
    succeed("export", EXAMPLE, out, "--format", "safetensors", *options)
    assert "model.safetensors.index.json" in names(out)
    assert "tokenizer.json" not in names(out)
    store = stores.build(stores.safetensors("deepseek_v2"))
    refused = invoke("export", store, tmp_path / "kept", "--format", "safetensors", "--mla", "keep")
    assert refused.exit_code == 4
    assert "a product does not say which factors it is of" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "onnx"),
        (),
        ("--format", "gguf", "--json", "--csv"),
        ("--format", "gguf", "--mla", "both"),
    ],
)
def test_a_call_that_cannot_be_exits_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert invoke("export", EXAMPLE, tmp_path / "out", *arguments).exit_code == 2


def test_overwrites_when_told(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    succeed("export", EXAMPLE, out, "--format", "gguf", "-q")
    assert invoke("export", EXAMPLE, out, "--format", "gguf").exit_code == 3
    succeed("export", EXAMPLE, out, "--format", "gguf", "--overwrite", "-q")
