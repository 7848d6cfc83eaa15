"""``wvindex verify``: every fault in a table or as JSON, a summary beside it, an exit code that tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.cli import EXAMPLE, REPOSITORY, invoke, on_terminal, process, succeed
from tests.support.sealing import chunk_path, flip
from wvindex.verifying import KINDS, verify

KEY = "model.layers.1.mlp.experts.gate_proj.weight"


@pytest.fixture
def damaged(kjv: Path, tmp_path: Path) -> Path:
    """Give a store with a flipped bit, a missing chunk and an extra file."""
    store = Path(shutil.copytree(kjv, tmp_path / "kjv.zarr"))
    flip(chunk_path(store, KEY, 1), 0)
    chunk_path(store, "model.norm.weight").unlink()
    (store / "notes.txt").write_text("mine")
    return store


def test_a_sound_store_prints_nothing_on_stdout(kjv: Path) -> None:
    result = invoke("verify", kjv)
    assert (result.exit_code, result.stdout) == (0, "")
    lines = [line.split(maxsplit=1) for line in result.stderr.splitlines()]
    assert lines[0][0] == "checked"
    assert lines[0][1].startswith("43 arrays, 61 chunks, 6.5 MiB, ")
    assert lines[-1] == ["faults", "none"]


def test_the_source_is_compared(kjv: Path) -> None:
    result = invoke("verify", kjv, "--source", EXAMPLE)
    assert result.exit_code == 0
    assert f"with {EXAMPLE}" in result.stderr
    assert "43 by gguf package" in result.stderr


def test_all_faults_stand_in_a_table(damaged: Path) -> None:
    result = invoke("verify", damaged)
    assert result.exit_code == 1
    title, *rows = result.stdout.splitlines()
    assert title.split() == ["KIND", "TENSOR", "CHUNK", "PATH", "EXPECTED", "FOUND"]
    chunk = chunk_path(damaged, KEY, 1).relative_to(damaged).as_posix()
    assert len(rows) == 3
    assert sorted(row.split()[0] for row in rows) == ["checksum", "chunk_missing", "extra_file"]
    (checksum,) = [row for row in rows if row.startswith("checksum")]
    assert checksum.split()[1:4] == [KEY, Path(chunk).name, chunk]
    assert result.stderr.splitlines()[-1] == "faults     3"


def test_quiet_prints_the_table_alone(damaged: Path, kjv: Path) -> None:
    result = invoke("verify", damaged, "-q")
    assert (result.exit_code, result.stderr) == (1, "")
    assert len(result.stdout.splitlines()) == 4
    assert succeed("verify", kjv, "-q") == ""


def test_json_is_what_the_library_says(damaged: Path) -> None:
    result = invoke("verify", damaged, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    printed, found = json.loads(result.stdout), verify(damaged).to_json()
    for timing in ("seconds", "compare_seconds"):
        assert printed.pop(timing) >= 0
        found.pop(timing)
    assert printed == json.loads(json.dumps(found))
    assert printed["ok"] is False
    assert set(printed["faults"][0]) == {"kind", "tensor", "chunk", "path", "expected", "found", "affects"}


def test_arrays_that_a_changed_source_affects_are_listed(tmp_path: Path) -> None:
    source = Path(shutil.copy2(EXAMPLE, tmp_path / "model.gguf"))
    store = tmp_path / "x.zarr"
    succeed("build", source, "--link", "-o", store)
    source.write_bytes(source.read_bytes() + b"\0")
    result = invoke("verify", store, "-q")
    assert result.exit_code == 1
    _, row, *affected = result.stdout.splitlines()
    assert row.split()[:3] == ["source_changed", "34", "arrays"]
    assert len(affected) == 34
    assert f"{source} affects model.norm.weight" in affected


def test_nothing_is_cut_off_on_a_narrow_terminal(damaged: Path) -> None:
    code, shown = on_terminal("verify", damaged, "-q", columns=70)
    assert code == 1
    text = "".join(shown.split())
    for part in ("chunk_missing", "notes.txt", "afile"):
        assert part in text


def test_there_is_a_progress_bar_on_a_terminal_only(kjv: Path) -> None:
    code, shown = on_terminal("verify", kjv)
    assert code == 0
    assert "6.5 MiB of 6.5 MiB" in shown
    done = process("verify", kjv)
    assert (done.returncode, done.stdout) == (0, "")
    assert " of 6.5 MiB" not in done.stderr


def test_control_characters_of_a_hostile_name_are_shown_not_obeyed(damaged: Path) -> None:
    (damaged / "x\x1b[31m").write_text("")
    assert "\x1b" not in invoke("verify", damaged).stdout
    assert "x\\x1b[31m" in invoke("verify", damaged).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        ((), 2, None),
        (("no/such.zarr",), 3, "not-a-store"),
        ((EXAMPLE.parent,), 3, "not-a-store"),
        ((EXAMPLE,), 3, "not-a-store"),
    ],
)
def test_what_is_no_store(arguments: tuple[object, ...], code: int, kind: str | None) -> None:
    result = invoke("verify", *arguments)
    assert result.exit_code == code
    assert kind is None or result.stderr.startswith(f"error[{kind}]: ")


def test_a_source_that_cannot_be_read(kjv: Path, tmp_path: Path) -> None:
    result = invoke("verify", kjv, "--source", tmp_path / "none.gguf")
    assert (result.exit_code, result.stderr.partition(":")[0]) == (3, "error[unreadable]")


def test_every_kind_of_fault_is_documented() -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
