"""``wvindex check``: findings by rule, in four forms, and the exit code that they give."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, invoke, on_terminal, process, succeed
from tests.support.planted import planted, put
from wvindex.inspection.linting.findings import COLUMNS
from wvindex.inspection.linting.table import RULES

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.2.input_layernorm.weight"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a checkpoint with an error, a warning and information."""
    changes = {
        UP: put((3, 4), np.nan),
        "model.layers.2.mlp.down_proj.weight": put((..., [7, 9]), 0),
        NORM: put(5, -0.5),
    }
    return planted(tmp_path_factory.mktemp("broken"), "llama", changes)


def test_text(broken: Path) -> None:
    result = invoke("check", broken)
    assert result.exit_code == 1
    assert result.stdout == (
        "error    WV101 nonfinite-weights: NaN or infinite weights\n"
        "  model.layers.1.mlp.up_proj.weight row 3 column 4  1 NaN and 0 infinite of 24576 values\n"
        "  hint: One such weight spreads to every logit.\n"
        "\n"
        "warning  WV104 zero-columns: Columns that are zero: inputs that nothing depends on\n"
        "  model.layers.2.mlp.down_proj.weight column 7      2 of 192 columns are zero: 7, 9\n"
        "  hint: In down_proj these are dead FFN features, in o_proj dead dimensions of heads.\n"
        "\n"
        "info     WV302 negative-norms: Some norm weights are zero or negative\n"
        "  model.layers.2.input_layernorm.weight column 5    "
        "1 of 128 weights are zero or negative, from -0.5 to 1.391: 5\n"
        "  hint: Trained models have a few.\n"
        "\n"
        f"1 error, 1 warning, 1 info: 30 tensors, 853.8 KiB, {len(RULES)} rules\n"
    )
    assert result.stderr == "wvindex check --explain RULE tells what a rule is about\n"


def test_a_healthy_model() -> None:
    result = invoke("check", EXAMPLE, "--severity", "info")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"0 errors, 0 warnings, 0 info: 52 tensors, 4.2 MiB, {len(RULES)} rules\n"


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        ([], 1),
        (["--ignore", "WV101"], 1),
        (["--ignore", "WV101", "--ignore", "zero-columns"], 0),
        (["--ignore", "WV101", "--severity", "error"], 0),
        (["--rule", "WV302"], 0),
        (["--rule", "WV302", "--severity", "info"], 1),
        (["--rule", "WV1", "--layer", "0"], 0),
        (["--rule", "WV1", "--layer", "1:"], 1),
        (["*.up_proj.weight", "--ignore", "WV101"], 0),
    ],
)
def test_exit_codes(options: list[str], exit_code: int, broken: Path) -> None:
    assert invoke("check", broken, *options).exit_code == exit_code


def test_json_is_the_report(broken: Path) -> None:
    result = invoke("check", broken, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == json.loads(json.dumps(wv.check(broken).to_dict()))


def test_csv_is_a_row_a_finding(broken: Path) -> None:
    names, *rows = csv.reader(io.StringIO(invoke("check", broken, "--csv").stdout))
    assert tuple(names) == COLUMNS
    assert [row[0] for row in rows] == ["WV101", "WV104", "WV302"]


def test_sarif_is_printed_or_written_beside_what_is_printed(broken: Path, tmp_path: Path) -> None:
    expected = json.loads(json.dumps(wv.check(broken).to_sarif()))
    printed = invoke("check", broken, "--sarif")
    assert (printed.exit_code, json.loads(printed.stdout)) == (1, expected)
    file = tmp_path / "check.sarif"
    written = invoke("check", broken, "--sarif", file)
    assert written.exit_code == 1
    assert written.stdout.startswith("error    WV101")
    assert json.loads(file.read_text()) == expected


def test_sarif_replaces_no_file_unless_asked_least_of_all_the_model(broken: Path, tmp_path: Path) -> None:
    model = broken if broken.is_file() else next(one for one in broken.rglob("*") if one.is_file())
    before = model.read_bytes()
    result = invoke("check", broken, "--sarif", model)
    assert (result.exit_code, result.stdout, model.read_bytes()) == (3, "", before)
    assert result.stderr.startswith("error[target-exists]")
    file = tmp_path / "check.sarif"
    file.write_text("mine")
    assert invoke("check", broken, "--sarif", file, "--overwrite").exit_code == 1
    assert json.loads(file.read_text())["version"] == "2.1.0"


def test_a_file_that_cannot_be_written(broken: Path, tmp_path: Path) -> None:
    result = invoke("check", broken, "--sarif", tmp_path / "missing" / "check.sarif")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error[store]: the directory to write in does not exist")


def test_a_rule_is_explained_without_a_path() -> None:
    by_id = succeed("check", "--explain", "WV101")
    assert by_id == succeed("check", "--explain", "nonfinite-weights")
    head, title, text = by_id.split("\n\n")
    assert head == "WV101 nonfinite-weights (error)"
    assert title == "NaN or infinite weights."
    assert " ".join(text.split()) == RULES[0].help


def test_a_group_is_explained_by_its_rules() -> None:
    title, blank, *lines = succeed("check", "--explain", "wv2").splitlines()
    assert (title, blank) == ("WV2xx: Scales", "")
    rules = [rule for rule in RULES if rule.id.startswith("WV2")]
    assert [line.split()[:3] for line in lines] == [[rule.id, rule.severity, rule.name] for rule in rules]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["nomatch"], "selection"),
        (["--layer", "99"], "selection"),
        (["*.weight", "--layer", "50:60"], "selection"),
        (["--rule", "WV1", "--ignore", "WV1"], "usage"),
        (["--rule", "WV203", "--ignore", "lost-scales"], "usage"),
    ],
)
def test_what_nothing_matches_does_not_pass_for_healthy(options: list[str], kind: str) -> None:
    result = invoke("check", EXAMPLE, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error[{kind}]: nothing matches")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--rule", "WV999"],
        ["--ignore", "x"],
        ["--explain", "WV9"],
        ["--json", "--csv"],
        ["--json", "--sarif"],
        ["--severity", "note"],
        ["--layer", "first"],
    ],
)
def test_what_cannot_be_exits_with_2(options: list[str]) -> None:
    assert invoke("check", EXAMPLE, *options).exit_code == 2


def test_a_model_that_cannot_be_opened_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\3\0\0\0")
    result = invoke("check", tmp_path / "a.gguf", "--json")
    assert (result.exit_code, result.stdout) == (3, "")


def test_names_from_files_cannot_drive_the_terminal(tmp_path: Path) -> None:
    add = {"\x1b[31mred": np.ones(3, np.float32)}
    path = planted(tmp_path, "llama", add=add)
    result = invoke("check", path, "--severity", "info")
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "\\x1b[31mred" in result.stdout


def test_off_a_terminal_there_is_no_progress() -> None:
    done = process("check", EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")


def test_on_a_terminal(broken: Path) -> None:
    exit_code, shown = on_terminal("check", broken, columns=100)
    assert exit_code == 1
    assert "1 error, 1 warning, 1 info" in shown
