"""``wvindex inspect``: the page of `wvindex.inspect`, as text, JSON and the tables that it is made of."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, process, succeed
from wvindex.cli.inspect import SHOWN
from wvindex.inspection import layer_page, model_page


@pytest.fixture(scope="session")
def store(kjv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store whose statistics nobody else keeps."""
    path = tmp_path_factory.mktemp("inspect") / "kjv.zarr"
    return Path(shutil.copytree(kjv, path, ignore=shutil.ignore_patterns("stats")))


@pytest.mark.parametrize("layer", [None, 1])
def test_off_a_terminal_it_prints_the_page(layer: int | None, store: Path) -> None:
    options = [] if layer is None else ["--layer", layer]
    page = wv.inspect(store) if layer is None else wv.inspect(store, layer)
    done = process("inspect", store, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{page}\n"
    assert document("inspect", store, *options) == json.loads(json.dumps(page.to_json()))


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_it_fits(columns: int, store: Path) -> None:
    code, shown = on_terminal("inspect", store, "--layer", 1, columns=columns)
    assert code == 0
    page = shown[shown.index("Attention") :].splitlines()  # after the progress
    assert max(map(len, page)) <= min(columns, 100)
    assert "Heads" in [line.rstrip() for line in page]


def test_csv_is_the_tensors(store: Path) -> None:
    names, *rows = csv.reader(io.StringIO(succeed("inspect", store, "--layer", 1, "--csv")))
    table = wv.inspect(store, 1).tensors
    assert tuple(names) == table.columns
    assert [row[0] for row in rows] == table["key"]
    assert rows[table["role"].index("self_attn.q_proj")][names.index("sources")] == (
        "blk.1.attn_q_a.weight blk.1.attn_q_a_norm.weight blk.1.attn_q_b.weight"
    )


@pytest.mark.parametrize("layer", [None, 1])
def test_every_table_is_printed_by_name(layer: int | None, store: Path) -> None:
    options = [] if layer is None else ["--layer", layer]
    page = wv.inspect(store) if layer is None else wv.inspect(store, layer)
    for name, table in page.tables().items():
        one = succeed("inspect", store, *options, "--table", name, "--csv")
        assert one == table.to_csv()
        assert document("inspect", store, *options, "--table", name)["rows"] == table.to_json()["rows"]
        assert set(SHOWN.get(name, ())) <= set(table.columns)
        if len(table):
            header = succeed("inspect", store, *options, "--table", name).splitlines()[0]
            assert len(header.split()) == len(SHOWN.get(name, table.columns))


def test_a_table_is_sorted_and_cut(store: Path) -> None:
    options = ("--table", "heads", "--sort", "ov_norm", "--columns", "head,ov_norm")
    lines = succeed("inspect", store, "--layer", 2, *options).splitlines()
    heads = wv.inspect(store, 2).heads.sorted("ov_norm")
    assert [int(line.split()[0]) for line in lines[1:]] == heads["head"]


def test_a_bare_file_without_statistics() -> None:
    text = succeed("inspect", EXAMPLE, "--no-stats")
    assert "a bare checkpoint" in text
    assert "KURTOSIS" not in text


def test_nothing_is_kept_where_it_should_not_be(kjv: Path, tmp_path: Path) -> None:
    path = shutil.copytree(kjv, tmp_path / "s.zarr", ignore=shutil.ignore_patterns("stats"))
    succeed("inspect", path, "--layer", 0, "--no-keep")
    assert not (path / "stats").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layer", 9), "no such layer"),
        (("--table", "heads"), "no such table"),
        (("--layer", 0, "--table", "layers"), "no such table"),
        (("--sort", "std"), "--table"),
        (("--csv", "--json"), "one format"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[object, ...], said: str, store: Path) -> None:
    result = invoke("inspect", store, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03" + bytes(9))
    assert invoke("inspect", tmp_path / "m.gguf").exit_code == 3


def _never(*arguments: object, **named: object) -> None:
    pytest.fail("weights are read")


@pytest.mark.parametrize(
    "options",
    [
        ["--table", "nope"],
        ["--table", "heads"],
        ["--table", "roles", "--sort", "nope"],
        ["--csv", "--columns", "nope"],
        ["--layer", "0", "--table", "layers"],
    ],
)
def test_what_cannot_be_printed_is_refused_before_any_weight_is_read(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wvindex.inspection.pages.open_any", _never)
    assert invoke("inspect", EXAMPLE, *options).exit_code == 2


@pytest.mark.parametrize("table", ["encodings", "exactness", "elsewhere"])
def test_tables_of_headers_read_no_weight(table: str, kjv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = document("inspect", kjv, "--table", table, "--no-keep")
    monkeypatch.setattr("wvindex.inspection.tensor_stats.scan", _never)
    assert document("inspect", kjv, "--table", table, "--no-keep") == expected


@pytest.mark.parametrize("options", [[], ["--table", "layers"], ["--layer", "0"], ["--csv"]])
def test_kept_statistics_that_cannot_be_read_are_noted(options: list[str], kjv: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(kjv, tmp_path / "kjv.zarr", ignore=shutil.ignore_patterns("stats")))
    (store / "stats").mkdir()
    (store / "stats" / "tensor.json").write_text("garbage")
    assert "note: the kept statistics cannot be read" in invoke("inspect", store, *options).stderr


def test_the_tables_are_those_of_the_pages() -> None:
    for page, tables in (
        (wv.inspect(EXAMPLE, stats=False), model_page.TABLES),
        (wv.inspect(EXAMPLE, 0, stats=False), layer_page.TABLES),
    ):
        assert {name: table.columns for name, table in page.tables().items()} == tables
