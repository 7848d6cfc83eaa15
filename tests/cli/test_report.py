"""``wvindex report`` and ``wvindex diff --html``: where the page goes, and what is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.cli import EXAMPLE, document, invoke, process, succeed
from tests.support.golden import COMMITTED
from tests.support.report_pages import data_of


def test_it_prints_the_path_of_the_page(kjv: Path, tmp_path: Path) -> None:
    file = tmp_path / "kjv.html"
    assert succeed("report", kjv, "--out", file) == f"{file}\n"
    assert len(data_of(file)["keys"]) == 43
    assert (kjv / "stats" / "distribution.json").is_file()


def test_without_a_name_it_has_the_sources_in_the_working_directory(tmp_path: Path) -> None:
    done = process("report", EXAMPLE, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny-kjv-Q8_0.html\n", "")
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-kjv-Q8_0.html"]


def test_json_has_the_path_and_the_size(kjv: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    assert document("report", kjv, "-o", file) == {"path": str(file), "bytes": file.stat().st_size}


def test_a_spectrum_is_there_if_asked(kjv: Path, tmp_path: Path) -> None:
    succeed("report", kjv, "-o", tmp_path / "a.html", "--spectrum", "full")
    assert all(data_of(tmp_path / "a.html")["values"]["effective_rank"][:1])


@pytest.mark.parametrize("command", [["report", EXAMPLE, "-o"], ["diff", EXAMPLE, EXAMPLE, "--html"]])
def test_a_file_is_replaced_only_if_asked(command: list[object], tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    file.write_text("mine")
    refused = invoke(*command, file)
    assert (refused.exit_code, refused.stdout, file.read_text()) == (3, "", "mine")
    assert "error[target-exists]" in refused.stderr
    assert invoke(*command, file, "--overwrite").exit_code == 0
    assert data_of(file)["keys"]


def test_a_comparison_is_written_beside_what_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "d.html"
    pair = [COMMITTED / f"llama-tiny-{name}.gguf" for name in ("Q4_K_M", "Q2_K")]
    plain, with_page = invoke("diff", *pair), invoke("diff", *pair, "--html", file)
    assert (with_page.exit_code, with_page.stdout) == (plain.exit_code, plain.stdout) == (1, plain.stdout)
    assert with_page.stderr == f"written: {file}\n"
    assert data_of(file)["kind"] == "Weight comparison"


@pytest.mark.parametrize("name", ["page.pdf", "page"])
def test_a_page_is_named_html(name: str, tmp_path: Path) -> None:
    assert invoke("report", EXAMPLE, "-o", tmp_path / name).exit_code == 2
    assert invoke("diff", EXAMPLE, EXAMPLE, "--html", tmp_path / name).exit_code == 2


def test_statistics_that_cannot_be_kept_are_noted(kjv: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(kjv, tmp_path / "kjv.zarr", ignore=shutil.ignore_patterns("stats")))
    (store / "stats").write_text("in the way")
    result = invoke("report", store, "--out", tmp_path / "a.html")
    assert result.exit_code == 0
    assert "note: the statistics are not kept" in result.stderr
