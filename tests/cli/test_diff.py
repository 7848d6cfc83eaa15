"""``wvindex diff``: tables of `wvindex.diff`, exit codes, and what is left out of text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.cli import EXAMPLE, invoke, succeed
from tests.support.packed import REPO_GOLDEN
from wvindex.cli.diff import METRICS, SHOWN, TABLES
from wvindex.inspection import gap
from wvindex.inspection.differences import Metric

Q4, Q2 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", REPO_GOLDEN / "llama-tiny-Q2_K.gguf"


def found(*arguments: object) -> str:
    """Run a comparison that must find a difference, and give what it printed."""
    result = invoke("diff", *arguments)
    assert result.exit_code == 1, result.stderr
    return result.stdout


def test_the_choices_are_those_of_the_library() -> None:
    assert METRICS == get_args(Metric) == tuple(gap.METRICS)
    tables = wv.diff(Q4, Q2).tables()
    assert {*TABLES.values()} == tables.keys() - {"model"}
    assert TABLES.keys() == SHOWN.keys()
    for name, columns in SHOWN.items():
        assert set(columns) <= set(tables[TABLES[name]].columns)


def test_json_is_the_whole_of_it() -> None:
    expected = json.loads(json.dumps(wv.diff(Q4, Q2, layers=1).to_json()))
    assert json.loads(found(Q4, Q2, "--layer", "1", "--json")) == expected


@pytest.mark.parametrize("by", TABLES)
def test_csv_is_a_table(by: str) -> None:
    names, *rows = csv.reader(io.StringIO(found(Q4, Q2, "--by", by, "--csv")))
    table = wv.diff(Q4, Q2).tables()[TABLES[by]]
    assert (tuple(names), len(rows)) == (table.columns, len(table))


def test_text_says_what_was_compared_and_leaves_out_what_is_the_same() -> None:
    head, _, table = found(Q4, Q2).partition("\n\n")
    assert head.splitlines()[0].split() == ["a", f"{Q4},", "4.823", "bits", "per", "weight"]
    assert "30 compared, 8 same, 22 different" in head
    header, *rows = table.splitlines()
    assert header.split()[:3] == ["KEY", "A_ENCODING", "B_ENCODING"]
    assert len(rows) == 22
    assert not any("layernorm" in row for row in rows)


def test_a_store_and_its_source_are_the_same(kjv: Path) -> None:
    text = succeed("diff", kjv, EXAMPLE)
    assert "43 compared, " in text
    assert " different" not in text
    assert "\n\n" not in text  # and so no table


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 1),
        (["--threshold", "0.5"], 0),
        (["--threshold", "0.1"], 1),
        (["--metric", "cosine", "--threshold", "0.9"], 0),
        (["--metric", "sqnr_db", "--threshold", "40"], 1),
        (["--role", "input_layernorm"], 0),
    ],
)
def test_the_exit_code_is_of_the_threshold(options: list[str], code: int) -> None:
    assert invoke("diff", Q4, Q2, *options).exit_code == code


def test_how_many_are_over_is_said() -> None:
    assert "22 with rel_l2 > 0.1" not in succeed("diff", Q4, Q2, "--threshold", "0.5")
    assert "0 with rel_l2 > 0.5" in succeed("diff", Q4, Q2, "--threshold", "0.5")
    assert "with sqnr_db < 40" in found(Q4, Q2, "--metric", "sqnr_db", "--threshold", "40")


def test_different_models() -> None:
    text = found(EXAMPLE, Q4)
    assert "missing in b" in text
    assert "in b alone" in text
    assert "of another shape" in text
    assert "config " in text
    header, *rows = found(EXAMPLE, Q4, "--by", "shape").partition("\n\n")[2].splitlines()
    assert header.split() == ["KEY", "A_SHAPE", "B_SHAPE", "A_ENCODING", "B_ENCODING"]
    assert rows[0].split() == ["model.embed_tokens.weight", "1024x256", "512x256", "Q8_0", "Q4_K"]


def test_sorted_by_another_column_with_other_columns() -> None:
    text = found(Q4, Q2, "--sort", "max_abs", "--columns", "key,max_abs").partition("\n\n")[2]
    rows = [line.split() for line in text.splitlines()[1:]]
    assert len(rows[0]) == 2
    damage = [float(row[1]) for row in rows]
    assert damage == sorted(damage, reverse=True)


def test_columns_apply_to_the_table_in_json() -> None:
    document = json.loads(found(Q4, Q2, "--by", "role", "--columns", "role,rmse", "--json"))
    assert document["roles"]["columns"] == ["role", "rmse"]
    assert len(document["tensors"]["columns"]) > 20


@pytest.mark.parametrize("options", [["nothing*"], ["--layer", "99"], ["--role", "x"], ["--layer", "50:60"]])
def test_a_choice_that_nothing_is_of_is_no_success(options: list[str]) -> None:
    result = invoke("diff", Q4, Q2, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error[selection]: nothing matches (")


@pytest.mark.parametrize("selector", ["*", "*.up_proj.weight"])
def test_bits_per_weight_are_those_of_the_whole_files(selector: str) -> None:
    lines = found(Q4, Q2, selector).splitlines()
    for line, path in zip(lines, (Q4, Q2), strict=False):
        tensors = gguf.GGUFReader(path).tensors
        bits = 8 * sum(int(t.n_bytes) for t in tensors) / sum(int(t.n_elements) for t in tensors)
        assert line.split()[1:] == [f"{path},", f"{bits:.4g}", "bits", "per", "weight"]


@pytest.mark.parametrize("by", ["tensor", "role", "layer", "row"])
def test_rows_that_are_damaged_by_nan_alone_do_not_look_whole(by: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)
    save_file({"w.weight": weights}, tmp_path / "a.safetensors")
    weights[4, 2:5] = np.nan
    save_file({"w.weight": weights}, tmp_path / "b.safetensors")
    head, _, table = found(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--by", by).partition(
        "\n\n"
    )
    assert "but for 3 not finite on one side" in head
    titles, row = (line.split() for line in table.splitlines())
    assert titles.count("NONFINITE") == 1
    assert "3" in row
    whole = found(Q4, Q2, "--by", by)
    assert "NONFINITE" not in whole
    assert "not finite" not in whole


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--json", "--csv"], 2),
        (["--sort", "beauty"], 2),
        (["--metric", "beauty"], 2),
        (["--threshold", "nan"], 2),
        (["--threshold", "-1"], 2),
        (["--metric", "rmse", "--threshold", "-0.1"], 2),
        (["--metric", "cosine", "--threshold", "-1"], 0),
        (["--metric", "sqnr_db", "--threshold", "-300"], 0),
        (["--layer", "x"], 2),
    ],
)
def test_what_cannot_be_asked(options: list[str], code: int) -> None:
    assert invoke("diff", Q4, Q2, *options).exit_code == code


def test_a_file_that_is_not_there_is_no_difference(tmp_path: Path) -> None:
    result = invoke("diff", Q4, tmp_path / "nothing.gguf")
    assert result.exit_code == 3
    assert "nothing.gguf" in result.stderr
