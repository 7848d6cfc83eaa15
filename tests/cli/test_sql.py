"""``wvindex sql``: what is asked, of what, and how the answer is printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import document, invoke, process, succeed
from tests.support.packed import REPO_GOLDEN

Q4, Q2 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", REPO_GOLDEN / "llama-tiny-Q2_K.gguf"

COUNT = "SELECT store, count(*) AS n FROM tensors GROUP BY 1 ORDER BY 1"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(kjv: Path, here: Path) -> Path:
    """Give a store in the working directory whose statistics nobody else keeps."""
    return Path(shutil.copytree(kjv, here / "kjv.zarr", ignore=shutil.ignore_patterns("stats")))


def test_the_question_of_the_help(store: Path) -> None:
    done = invoke("sql", "SELECT layer, role, kurtosis FROM tensors ORDER BY 3 DESC")
    assert done.exit_code == 0
    assert done.stderr == "note: of kjv.zarr, the one store here\n"
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["LAYER", "ROLE", "KURTOSIS"]
    assert lines[1].split() == ["2", "self_attn.q_proj", "12.11"]
    with wv.open(store) as db:
        assert len(lines) == 1 + len(db)


@pytest.mark.parametrize("others", [[], ["a.zarr", "b.zarr"]])
def test_without_a_path_there_must_be_one_store(others: list[str], here: Path) -> None:
    for other in others:
        (here / other).mkdir()
    done = invoke("sql", "FROM tensors")
    assert done.exit_code == 2
    assert (", ".join(others) or "none") in done.stderr


def test_sources_by_name(here: Path) -> None:
    (here / "odd=name.gguf").symlink_to(Q2)
    found = document("sql", COUNT, f"four={Q4}", Q2, "odd=name.gguf")
    assert [row["store"] for row in found["rows"]] == ["four", "llama-tiny-Q2_K", "odd=name"]


def test_json_and_csv_are_the_tables(here: Path) -> None:
    query = "SELECT key, dims, std, mapped, NULL AS nothing FROM tensors LIMIT 3"
    expected = wv.sql(query, Q4)
    assert document("sql", query, Q4) == json.loads(json.dumps(expected.to_json()))
    assert succeed("sql", query, Q4, "--csv") == expected.to_csv()


def test_in_text_false_is_a_word_and_null_is_nothing(here: Path) -> None:
    shown = succeed("sql", "SELECT false AS no, true AS yes, NULL AS nothing, 'nan'::DOUBLE AS nan", Q4)
    assert [line.split() for line in shown.splitlines()] == [
        ["NO", "YES", "NOTHING", "NAN"],
        ["false", "true", "nan"],
    ]


def test_output_is_written_and_named(here: Path) -> None:
    assert succeed("sql", COUNT, Q4, "-o", "out.parquet") == "out.parquet\n"
    again = invoke("sql", COUNT, Q4, "--output", "out.parquet")
    assert (again.exit_code, "target-exists" in again.stderr) == (3, True)
    assert succeed("sql", COUNT, Q4, "-o", "out.parquet", "--overwrite") == "out.parquet\n"
    assert [one.name for one in here.iterdir()] == ["out.parquet"]


def test_schema_and_recipes(here: Path) -> None:
    assert document("sql", "--schema")["rows"] == wv.sql_schema().to_json()["rows"]
    assert document("sql", "--recipes")["rows"] == wv.sql_recipes().to_json()["rows"]
    titles = succeed("sql", "--recipes")
    assert "damage-by-role" in titles and "SELECT" not in titles


def test_a_recipe_takes_paths_alone(here: Path) -> None:
    shown = succeed("sql", "--recipe", "damage-by-role", f"a={Q4}", f"b={Q2}")
    assert shown.splitlines()[0].split()[:2] == ["STORE", "ROLE"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no query"),
        ([Q4, "SELECT 1"], "before the paths"),
        (["--recipe", "none", Q4], "no such recipe"),
        (["SELECT nothing FROM tensors", Q4], "nothing"),
        (["ATTACH 'x'", Q4], "ATTACH"),
        (["FROM diff", Q4], "two sources"),
        (["FROM tensors", "--json", "--csv", Q4], "one format"),
        (["FROM tensors", "--json", "-o", "x.json", Q4], "format of a file"),
        (["FROM tensors", "-o", "x.txt", Q4], "no such format"),
        (["FROM tensors", Q4, Q4], "one name"),
        (["FROM tensors", f"={Q4}"], "empty name"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[object], message: str, here: Path) -> None:
    done = invoke("sql", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error[usage]: ") and done.stderr.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_process_says_its_error_and_nothing_else(here: Path) -> None:
    done = process("sql", "SELECT nothing FROM tensors", Q4, cwd=here)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_no_keep_leaves_the_store_alone(store: Path) -> None:
    succeed("sql", "SELECT max(std) FROM layers", "--no-keep")
    assert not (store / "stats").exists()
    succeed("sql", "SELECT max(std) FROM layers")
    assert [one.name for one in (store / "stats").iterdir()] == ["layer.json"]
