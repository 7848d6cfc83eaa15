"""A report holds what `wvindex.stats` says, of stores and bare files, the same each time."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.report_pages import data_of
from wvindex.errors import TargetExists, UsageError
from wvindex.inspection import page as page_of
from wvindex.inspection.report import api, distributions
from wvindex.inspection.report.document import rounded

STACK = "model.layers.1.mlp.experts.gate_proj.weight"
QUERIES = "model.layers.2.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wv.build(EXAMPLE, tmp_path_factory.mktemp("report") / "kjv.zarr")


@pytest.fixture(scope="module")
def page(built: Path) -> Path:
    return wv.report(built, built.parent / "kjv.html", spectrum="top")


@pytest.fixture(scope="module")
def data(page: Path) -> dict[str, Any]:
    return data_of(page)


def blocks(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Give what the panel of a tensor shows, by title; a histogram has none."""
    found = [data["blocks"][i] for i in data["tensorBlocks"][data["keys"].index(key)]]
    return {block.get("title", "Histogram"): block for block in found}


def test_every_statistic_of_every_tensor_is_there(built: Path, data: dict[str, Any]) -> None:
    table = wv.stats(built, spectrum="top")
    assert data["keys"] == table["key"]
    for statistic in data["statistics"]:
        name = statistic["name"]
        assert data["values"][name] == [rounded(value) for value in table[name]], name
    left = set(table.columns) - {one["name"] for one in data["statistics"]}
    assert left == {"key", "layer", "role", "singular_values"}


def test_heads_and_experts_are_those_of_the_tables(built: Path, data: dict[str, Any]) -> None:
    heads = wv.stats(built, layers=2, by="head")
    assert blocks(data, QUERIES)["Heads"]["values"]["ov_norm"] == [rounded(x) for x in heads["ov_norm"]]
    experts = wv.stats(built, STACK, by="expert")
    shown = blocks(data, STACK)["Experts"]["values"]
    assert shown["cosine"] == [rounded(x) for x in experts["cosine"]]
    assert shown["nearest"] == experts["nearest"]


def test_a_histogram_is_numpys(built: Path, data: dict[str, Any]) -> None:
    with wv.open(built) as db:
        values = np.asarray(db[QUERIES], np.float64).ravel()
    low, high = np.quantile(values, [0.001, 0.999], method="inverted_cdf")
    found = blocks(data, QUERIES)["Histogram"]
    assert (found["low"], found["high"]) == (rounded(float(low)), rounded(float(high)))
    np.testing.assert_allclose(found["counts"], np.histogram(values, 48, (low, high))[0], atol=2)
    assert (found["below"], found["above"]) == (np.sum(values < low), np.sum(values > high))


def test_singular_values_only_where_they_were_asked_for(built: Path, data: dict[str, Any]) -> None:
    with wv.open(built) as db:
        expected = np.linalg.svd(np.asarray(db[QUERIES], np.float64), compute_uv=False)[:8]
    np.testing.assert_allclose(blocks(data, QUERIES)["Singular values"]["values"], expected, rtol=1e-3)
    plain = data_of(wv.report(built, built.parent / "plain.html"))
    assert "Singular values" not in blocks(plain, QUERIES)
    assert "stable_rank" not in plain["values"]


def test_its_head_tells_what_the_model_is(data: dict[str, Any]) -> None:
    facts = dict(data["facts"])
    assert data["title"] == "kjv.zarr"
    assert (facts["family"], facts["layers"], facts["parameters"]) == ("deepseek_v3", "3", "4,263,688")
    assert (facts["size"], facts["bits per weight"]) == ("6.5 MiB", "12.86")
    assert facts["exactness"] == "31 bit, 9 derived, 3 reordered"


def test_the_same_store_gives_the_same_bytes_wherever_it_is(built: Path, page: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(built, tmp_path / "kjv.zarr", ignore=shutil.ignore_patterns("stats"))
    fresh = wv.report(moved, tmp_path / "fresh.html", spectrum="top", keep=False)
    assert not (moved / "stats").exists()
    assert fresh.read_bytes() == page.read_bytes()


def test_what_a_store_keeps_is_not_computed_again(
    built: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(distributions, "distribution_row", refuse)
    again = wv.report(built, page, spectrum="top", overwrite=True)
    assert (built / "stats" / "distribution.json").is_file()
    assert data_of(again)["keys"]


def test_heads_of_factors_stand_behind_what_they_are_read_from(tmp_path: Path) -> None:
    data = data_of(wv.report(EXAMPLE, tmp_path / "a.html"))
    expected = wv.stats(EXAMPLE, layers=0, by="head")["qk_norm"]
    for role in ("q_b_proj", "k_b_proj", "v_b_proj", "o_proj"):
        found = blocks(data, f"model.layers.0.self_attn.{role}.weight")["Heads"]["values"]["qk_norm"]
        assert found == [rounded(x) for x in expected]


def test_what_nobody_decodes_is_left_out_and_named(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of, "can_decode", lambda encoding: encoding.name != "Q8_0")
    data = data_of(wv.report(built, tmp_path / "a.html"))
    assert set(data["values"]["encoding"]) == {"F32"}
    (note,) = data["notes"]
    assert note.startswith("nobody decodes model.embed_tokens.weight, ")
    assert note.endswith("and 19 more: left out")


def test_a_bare_file_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = wv.report(EXAMPLE)
    assert written == Path("tiny-kjv-Q8_0.html")
    assert data_of(written)["title"] == EXAMPLE.name


def test_progress_grows_to_its_end(built: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    wv.report(built, tmp_path / "a.html", spectrum="top", progress=lambda *at: told.append(at))
    assert all(a <= b for (a, _), (b, _) in pairwise(told))
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_a_taken_path_is_refused_before_anything_is_computed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "collect", None)
    with pytest.raises(TargetExists):
        wv.report(EXAMPLE, page)
    with pytest.raises(UsageError):
        wv.report(EXAMPLE, tmp_path / "report.pdf")
