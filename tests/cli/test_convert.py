"""``wvindex convert``: what it prints and exits with; what it does is `wvindex.convert`'s."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.cli import document, invoke, process, succeed
from tests.support.safetensors_writer import write_safetensors
from tests.support.trees import contents, names


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_safetensors(checkpoint("deepseek_v3"), tmp_path / "a", shards=2)


def test_it_prints_where_the_result_is(source: Path, tmp_path: Path) -> None:
    result = invoke("convert", source, tmp_path / "b", "--fuse-mla-lora")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'b'}\n")
    assert "of tensors in" in result.stderr
    quiet = invoke("convert", tmp_path / "b", tmp_path / "c", "--unfuse-mla-lora", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{tmp_path / 'c'}\n", "")
    wv.convert(source, tmp_path / "d", fuse_mla_lora=True)
    assert contents(tmp_path / "b") == contents(tmp_path / "d")


def test_a_dry_run_prints_the_plan(source: Path, tmp_path: Path) -> None:
    text = succeed("convert", source, tmp_path / "b", "--fuse-mla-lora", "--dry-run")
    assert text == f"{wv.convert(source, tmp_path / 'b', fuse_mla_lora=True, dry_run=True)}\n"
    assert names(tmp_path) == ["a"]


def test_json_and_csv_have_every_tensor(source: Path, tmp_path: Path) -> None:
    options = ("convert", source, tmp_path / "b", "--fuse-mla-lora", "--dry-run")
    found = document(*options)
    assert found["written"] is False
    assert {unit["operation"] for unit in found["units"]} == {"copy", "fuse"}
    header, *rows = csv.reader(io.StringIO(succeed(*options, "--csv")))
    assert header == ["operation", "inputs", "outputs", "nbytes", "file"]
    assert len(rows) == len(found["units"])
    assert sum(int(row[3]) for row in rows) == found["nbytes"]
    inputs = [name for row in rows for name in row[1].split()]
    assert sorted(inputs) == sorted(checkpoint("deepseek_v3").tensors)


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        ((), 2, "usage"),
        (("--fuse-mla-lora", "--unfuse-mla-lora"), 2, "usage"),
        (("--fuse-mla-lora", "--json", "--csv"), 2, "usage"),
        (("--unfuse-mla-lora",), 4, "unsupported"),
        (("--fuse-mla-lora", "--max-memory", "1MiB"), 2, "usage"),
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int, kind: str, source: Path, tmp_path: Path) -> None:
    result = invoke("convert", source, tmp_path / "b", *arguments)
    assert result.exit_code == code
    assert result.stderr.startswith(f"error[{kind}]")
    assert names(tmp_path) == ["a"]


def test_a_source_that_is_none_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("gone", "empty"):
        result = invoke("convert", tmp_path / name, tmp_path / "b", "--fuse-mla-lora")
        assert result.exit_code == 3


def test_build_and_plan_take_the_option(source: Path, tmp_path: Path) -> None:
    options = ("--mla", "keep", "--fused-mla-lora-proj")
    assert document("plan", source, *options)["options"]["fused_mla_lora_proj"] is True
    store = tmp_path / "x.zarr"
    succeed("build", source, "--out", store, *options)
    assert "--fused-mla-lora-proj" in succeed("info", store)
    key = "model.layers.1.self_attn.fused_qkv_a_proj.weight"
    shown = succeed("show", store, key)
    assert "fused of   model.layers.1.self_attn.q_a_proj.weight: [0:96]" in shown
    assert "fuse_qkv_a" in shown
    (listed,) = document("ls", store, key)["tensors"]
    assert listed["widths"] == [96, 64, 16]
    assert [part["rows"] for part in listed["parts"]] == [[0, 96], [96, 176]]
    half = "model.layers.1.self_attn.q_a_proj.weight"
    assert half in succeed("ls", store, half, "--layer", "1")
    assert f"holds  {half}, " in succeed("ls", store, key, "--long")


def test_in_a_process_of_its_own(source: Path, tmp_path: Path) -> None:
    done = process("convert", source, tmp_path / "b", "--fuse-mla-lora")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'b'}\n")
