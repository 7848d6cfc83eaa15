"""``wvindex build``: a store, its path on stdout, and everything else on stderr."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import wvindex
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, process, succeed
from tests.support.safetensors_writer import write_weights


def test_prints_the_path_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    done = process("build", EXAMPLE, "--out", "kjv.zarr", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "kjv.zarr\n")
    assert re.fullmatch(r"43 arrays, [\d.]+ MiB, in [\d.]+ s\n", done.stderr)
    with wvindex.open(tmp_path / "kjv.zarr") as db:
        assert len(db) == 43


def test_the_store_is_named_after_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert succeed("build", EXAMPLE) == "tiny-kjv-Q8_0.zarr\n"
    assert (tmp_path / "tiny-kjv-Q8_0.zarr").is_dir()


def test_quiet_says_nothing(tmp_path: Path) -> None:
    result = invoke("build", EXAMPLE, "-o", tmp_path / "kjv.zarr", "-q")
    assert (result.exit_code, result.stderr) == (0, "")


def test_json_tells_the_path_and_the_size(tmp_path: Path) -> None:
    built = document("build", EXAMPLE, "-o", tmp_path / "kjv.zarr")
    with wvindex.open(built["path"]) as db:
        assert built["arrays"] == len(db)
        assert built["nbytes"] == sum(tensor.nbytes for tensor in db.values())


def test_a_dry_run_is_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert succeed("build", EXAMPLE, "--dry-run") == succeed("plan", EXAMPLE)
    dry = json.loads(succeed("build", EXAMPLE, "--dry-run", "--json", "--mla", "keep"))
    assert dry["options"]["mla"] == "keep"
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_replaced_only_on_demand(tmp_path: Path) -> None:
    out = tmp_path / "kjv.zarr"
    succeed("build", EXAMPLE, "-o", out)
    refused = invoke("build", EXAMPLE, "-o", out)
    assert refused.exit_code == 3
    assert refused.stderr.startswith("error[target-exists]: ")
    succeed("build", EXAMPLE, "-o", out, "--overwrite", "--mla", "keep")
    with wvindex.open(out) as db:
        assert "model.layers.1.self_attn.q_a_proj.weight" in db


def test_options_reach_the_build(tmp_path: Path) -> None:
    out = tmp_path / "kjv.zarr"
    options = (
        "--mla",
        "both",
        "--dtype",
        "float16",
        "--absorbed-dtype",
        "bfloat16",
        "--max-memory",
        "512MiB",
    )
    succeed("build", EXAMPLE, "-o", out, *options)
    with wvindex.open(out) as db:
        assert db["model.layers.1.self_attn.q_proj.weight"].encoding == "BF16"
        assert db["model.layers.1.self_attn.q_b_proj.weight"].encoding == "F16"


def test_link_copies_no_more_than_it_must_and_says_so(tmp_path: Path) -> None:
    result = invoke("build", EXAMPLE, "-o", tmp_path / "kjv.zarr", "--link")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'kjv.zarr'}\n")
    assert "linked to the source, which must stay with the store: 34 of the arrays\n" in result.stderr
    copied = tmp_path / "copied.zarr"
    succeed("build", EXAMPLE, "-o", copied)
    assert size(tmp_path / "kjv.zarr") < 0.6 * size(copied)


def size(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def test_too_little_memory_is_a_wrong_call(tmp_path: Path) -> None:
    result = invoke("build", EXAMPLE, "-o", tmp_path / "kjv.zarr", "--max-memory", "1MiB")
    assert result.exit_code == 2
    assert "max_memory" in result.stderr


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    values = np.array([1, np.nan, np.inf], ml_dtypes.bfloat16)
    write_weights({"strange": values}, tmp_path)
    result = invoke("build", tmp_path, "-o", tmp_path / "strange.zarr")
    assert "kept under their own names, for want of a standard key: 1" in result.stderr
    assert "arrays that hold NaN or infinity (`wvindex info` names them): 1" in result.stderr


def test_a_terminal_shows_rate_bytes_and_time_left(tmp_path: Path) -> None:
    exit_code, shown = on_terminal("build", EXAMPLE, "-o", "kjv.zarr", cwd=tmp_path)
    assert exit_code == 0
    lines = re.split(r"[\r\n]+", shown)
    last = [line for line in lines if "100%" in line][-1]
    assert re.search(r"100% ([\d.]+ MiB) of \1 .*B/s \d+:\d\d:\d\d", last)
    assert all(len(line) <= 80 for line in lines)


def test_quiet_shows_no_bar_on_a_terminal(tmp_path: Path) -> None:
    exit_code, shown = on_terminal("build", EXAMPLE, "-o", "kjv.zarr", "--quiet", cwd=tmp_path)
    assert (exit_code, shown) == (0, "kjv.zarr\r\n")


def test_off_a_terminal_rich_is_not_even_imported(tmp_path: Path) -> None:
    start = (
        "import atexit, sys; from wvindex.cli.main import main; "
        "atexit.register(lambda: print('rich' in sys.modules)); main()"
    )
    done = process("build", EXAMPLE, "-q", start=start, cwd=tmp_path)
    assert done.stdout == "tiny-kjv-Q8_0.zarr\nFalse\n"
