"""``wvindex stats``: the table of `wvindex.stats`, sorted, cut to columns, as JSON, CSV and plots."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, process, succeed
from wvindex.cli.stats import BY, SHOWN
from wvindex.inspection.api import GROUPINGS, By
from wvindex.inspection.spectrum import SPECTRUM


@pytest.fixture
def store(kjv: Path, tmp_path: Path) -> Path:
    """Give a store whose statistics nobody else keeps."""
    return Path(shutil.copytree(kjv, tmp_path / "kjv.zarr", ignore=shutil.ignore_patterns("stats")))


def test_the_tables_are_those_of_the_library() -> None:
    assert tuple(GROUPINGS) == get_args(By) == BY == tuple(SHOWN)
    for by, names in SHOWN.items():
        assert set(names) <= {*GROUPINGS[by].columns, *(SPECTRUM if by in {"tensor", "expert"} else ())}


@pytest.mark.parametrize("by", BY)
def test_json_is_the_table(by: By, store: Path) -> None:
    expected = wv.stats(store, layers=1, by=by)
    assert document("stats", store, "--layer", "1", "--by", by) == json.loads(json.dumps(expected.to_json()))


def test_csv_has_all_columns(store: Path) -> None:
    names, *rows = csv.reader(io.StringIO(succeed("stats", store, "--csv")))
    assert tuple(names) == GROUPINGS["tensor"].columns
    with wv.open(store) as db:
        assert [row[0] for row in rows] == list(db)


def test_text_has_some_columns_with_four_digits(store: Path) -> None:
    header, row = succeed("stats", store, "lm_head.weight").splitlines()
    assert header.split() == ["KEY", "ENCODING", "MEAN", "STD", "ABSMAX", "KURTOSIS", "OUTLIERS"]
    assert row.split() == ["lm_head.weight", "Q8_0", "0.009381", "0.1134", "0.7538", "3.4", "49"]


def test_columns_by_name(store: Path) -> None:
    header, _ = succeed("stats", store, "lm_head.weight", "--columns", "key, p99_9,l2").splitlines()
    assert header.split() == ["KEY", "P99_9", "L2"]
    assert len(succeed("stats", store, "lm_head.weight", "--columns", "all").split()) > 40


@pytest.mark.parametrize("ascending", [True, False])
def test_sorted_by_a_column_that_is_not_shown(ascending: bool, store: Path) -> None:
    option = ["--ascending"] if ascending else []
    lines = succeed("stats", store, "--role", "self_attn.*", "--sort", "l2", *option).splitlines()[1:]
    expected = wv.stats(store, role="self_attn.*").sorted("l2", descending=not ascending)
    assert [line.split()[0] for line in lines] == expected["key"]


@pytest.mark.parametrize(("layers", "found"), [("1", {1}), ("0,2", {0, 2}), ("1:", {1, 2}), ("-1", {2})])
def test_layers(layers: str, found: set[int], store: Path) -> None:
    rows = document("stats", store, "--layer", layers)["rows"]
    assert {row["layer"] for row in rows} == found


def test_a_layer_that_is_not_there(store: Path) -> None:
    result = invoke("stats", store, "--layer", "7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error[selection]: no such layer (expected: layers 0 to 2, found: 7)\n"


def test_a_spectrum_adds_columns(store: Path) -> None:
    (row,) = document("stats", store, "lm_head.weight", "--spectrum", "full")["rows"]
    assert len(row["singular_values"]) == 8
    assert row["effective_rank"] > row["stable_rank"] > 1


def test_a_bare_file(tmp_path: Path) -> None:
    assert len(succeed("stats", EXAMPLE, "--layer", "0").splitlines()) == 14


def test_the_store_keeps_what_was_computed_unless_told_not_to(store: Path) -> None:
    succeed("stats", store, "--no-keep")
    assert not (store / "stats").exists()
    succeed("stats", store)
    assert (store / "stats" / "tensor.json").is_file()


def test_a_store_that_cannot_be_written_is_noted(store: Path) -> None:
    (store / "stats").write_text("in the way")
    result = invoke("stats", store, "lm_head.weight")
    assert result.exit_code == 0
    assert "note: the statistics are not kept" in result.stderr


def test_a_single_tensor_is_plotted_as_its_histogram(store: Path) -> None:
    title, *lines = succeed("stats", store, "lm_head.weight", "--plot").splitlines()
    assert title.startswith("lm_head.weight: 261629 values from -0.3957 to 0.625")
    assert len(lines) == 33
    assert sum("█" in line for line in lines) > 10


def test_several_are_plotted_as_bars(store: Path) -> None:
    title, *lines = succeed("stats", store, "--by", "head", "--sort", "ov_norm", "--plot").splitlines()
    assert title == "ov_norm of heads"
    assert len(lines) == 24
    assert lines[0].startswith("layer 2 head 4 ")


def test_a_plot_goes_to_a_file(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "heads.svg"
    assert succeed("stats", store, "--by", "head", "--plot", file) == f"{file}\n"
    assert file.read_text().startswith("<?xml")


def test_a_plot_to_a_file_without_matplotlib(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = invoke("stats", store, "lm_head.weight", "--plot", tmp_path / "a.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'wvindex[plot]'" in result.stderr


@pytest.mark.parametrize("options", [["*.sinks"], ["*.sinks", "--plot"], ["--role", "sinks", "--json"]])
def test_what_nothing_matches_does_not_pass(options: list[str], store: Path) -> None:
    result = invoke("stats", store, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error[selection]: nothing matches") and result.stderr.count("\n") == 1


def test_a_table_without_rows_is_no_mistyped_selection(store: Path) -> None:
    result = invoke("stats", store, "model.norm.weight", "--by", "expert")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing matches\n")


@pytest.mark.parametrize("options", [[], ["--sort", "std"]])
@pytest.mark.parametrize("values", [(), (float("nan"),)])
def test_what_has_no_number_is_not_plotted(
    values: tuple[float, ...], options: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"odd": np.array(values, np.float32)}, path)
    result = invoke("stats", path, *options, "--plot")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "there is nothing to plot\n")


@pytest.mark.parametrize(
    "options",
    [
        ["--sort", "size"],
        ["--columns", "key,size"],
        ["--json", "--csv"],
        ["--plot", "--json"],
        ["--by", "chunk"],
        ["--by", "row", "--spectrum", "top"],
        ["--layer", "first"],
        ["--plot", "picture.jpg"],
    ],
)
def test_what_cannot_be_exits_with_2(options: list[str], store: Path) -> None:
    assert invoke("stats", store, "lm_head.weight", *options).exit_code == 2


def test_off_a_terminal_there_is_no_progress(store: Path) -> None:
    done = process("stats", store)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_of_its_width(columns: int, store: Path) -> None:
    exit_code, shown = on_terminal("stats", store, "--layer", "1", columns=columns)
    lines = shown.splitlines()
    assert exit_code == 0
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("key ")) :]
    assert all(len(line) <= columns for line in table)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--sort", "nope"], 2),
        (["--columns", "key,nope"], 2),
        (["--json", "--csv"], 2),
        (["--plot", "x.bmp"], 2),
        (["--plot", "x.svg", "--json"], 2),
        (["--plot", "missing/x.svg"], 3),
        (["--sort", "stable_rank"], 2),
    ],
)
def test_what_cannot_be_printed_is_refused_before_any_weight_is_read(
    options: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        pytest.fail("weights are read")

    monkeypatch.setattr("wvindex.inspection.api.collect", never)
    result = invoke("stats", EXAMPLE, *options)
    assert (result.exit_code, result.stdout) == (code, "")


def test_a_picture_replaces_a_file_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "bars.svg"
    file.write_text("mine")
    result = invoke("stats", EXAMPLE, "lm_head.weight", "--plot", file)
    assert (result.exit_code, file.read_text()) == (3, "mine")
    succeed("stats", EXAMPLE, "lm_head.weight", "--plot", file, "--overwrite")
    assert "<svg" in file.read_text()


def test_features_whose_norms_are_not_finite_are_noted(tmp_path: Path) -> None:
    tensors = {name: np.ones((3, 3), np.float32) for name in ("gate", "up", "down")}
    tensors["up"][1, 2] = np.nan
    named = {f"model.layers.0.mlp.{name}_proj.weight": values for name, values in tensors.items()}
    save_file(named, tmp_path / "model.safetensors")
    result = invoke("stats", str(tmp_path), "--by", "feature")
    assert result.stderr == "note: 1 of 3 features have a norm that is NaN or infinite\n"
