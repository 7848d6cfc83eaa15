"""The page of a comparison: NumPy's numbers, the order of damage, and whatever has no partner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.golden import COMMITTED
from tests.support.report_pages import data_of
from wvindex.inspection.report.comparison import OF_VALUES, comparison_document
from wvindex.inspection.report.document import rounded

BETTER, WORSE = COMMITTED / "llama-tiny-Q4_K_M.gguf", COMMITTED / "llama-tiny-Q2_K.gguf"


@pytest.fixture(scope="module")
def found() -> wv.Diff:
    return wv.diff(BETTER, WORSE, worst=3)


@pytest.fixture(scope="module")
def data(found: wv.Diff, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return data_of(wv.report(found, tmp_path_factory.mktemp("diff") / "diff.html"))


def test_measures_are_numpys(data: dict[str, Any]) -> None:
    with wv.open(BETTER) as a, wv.open(WORSE) as b:
        for i, key in enumerate(data["keys"]):
            one, other = (np.asarray(db[key], np.float64) for db in (a, b))
            far = np.linalg.norm(one - other) / np.linalg.norm(one)
            assert data["values"]["rel_l2"][i] == pytest.approx(far, rel=1e-3)
            assert data["values"]["max_abs"][i] == pytest.approx(np.abs(one - other).max(), rel=1e-3)


def test_tensors_come_by_damage(data: dict[str, Any]) -> None:
    assert data["values"]["rank"] == list(range(1, len(data["keys"]) + 1))
    assert data["values"]["rel_l2"] == sorted(data["values"]["rel_l2"], reverse=True)
    assert (data["first"], data["order"]) == ("rel_l2", "The most damaged first")


def test_equal_tensors_have_no_noise(data: dict[str, Any]) -> None:
    i = data["keys"].index("model.norm.weight")
    values = {one.name: data["values"][one.name][i] for one in OF_VALUES}
    assert (values["rel_l2"], values["cosine"], values["sqnr_db"]) == (0, 1, "Infinity")


def test_worst_rows_stand_behind_their_tensor(found: wv.Diff, data: dict[str, Any]) -> None:
    key = data["keys"][0]
    (block,) = (data["blocks"][i] for i in data["tensorBlocks"][0])
    expected = [row["rel_l2"] for row in found.rows if row["key"] == key]
    names = [column["name"] for column in block["columns"]]
    assert block["title"] == "Worst rows"
    assert [row[names.index("rel_l2")] for row in block["rows"]] == [rounded(x) for x in expected]
    assert len(block["rows"]) == 3


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    found = wv.diff(BETTER, EXAMPLE_OF_ANOTHER_FAMILY)
    listings = {one["title"]: one for one in data_of(wv.report(found, tmp_path / "d.html"))["listings"]}
    for title, table in (
        ("Missing", found.missing),
        ("Extra", found.extra),
        ("Of another shape", found.unlike),
    ):
        assert [row[0] for row in listings[title]["rows"]] == table["key"]
        assert len(table)
    assert [row[0] for row in listings["Configuration"]["rows"]] == found.config["field"]


EXAMPLE_OF_ANOTHER_FAMILY = COMMITTED.parents[1] / "examples" / "tiny-kjv-Q8_0.gguf"


def test_two_files_of_one_name_are_told_apart_by_their_directories(found: wv.Diff) -> None:
    facts = dict(comparison_document(found).facts)
    assert (facts["a"], facts["b"]) == (BETTER.name, WORSE.name)
    same = wv.diff(BETTER, BETTER)
    assert comparison_document(same).title == f"{BETTER} → {BETTER}"
