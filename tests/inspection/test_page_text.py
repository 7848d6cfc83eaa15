"""Pages as text fit 80 columns, hide nothing that is odd, and obey nothing that stands in a name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.stores import Stores
from wvindex.inspection.anomalies import counted
from wvindex.inspection.layer_text import MOST_ROWS
from wvindex.inspection.text_parts import bar, number, short

MODELS = ("llama", "gemma2", "phi3", "mixtral", "deepseek_v3", "deepseek_v3-fp8", "kimi_k2")


@pytest.mark.parametrize("name", MODELS)
def test_every_page_fits_eighty_columns(name: str, stores: Stores) -> None:
    path = stores.safetensors(name)
    for page in (wv.inspect(path), wv.inspect(path, 1), wv.inspect(path, 1, stats=False)):
        lines = str(page).splitlines()
        assert max(map(len, lines)) <= 80
        assert [line for line in lines if line != line.rstrip()] == []


def test_the_layers_page_names_every_tensor_and_every_source_that_has_another_name() -> None:
    page = wv.inspect(EXAMPLE, 1)
    text = str(page)
    for row in page.tensors:
        assert row["role"].rpartition("proj")[0].rpartition(".")[2] in text
        (source,) = row["sources"]
        assert f" {source.removeprefix('blk.1.').removesuffix('.weight')}\n" in text


def test_sections_stand_where_there_is_something_to_say(stores: Stores) -> None:
    titles = ["Attention", "Tensors", "Sources", "Weights", "Heads", "Feed-forward features"]

    def sections(page: wv.LayerPage) -> list[str]:
        return [line for line in str(page).splitlines()[2:] if line and not line.startswith(" ")]

    dense, routed = (wv.inspect(EXAMPLE, layer) for layer in (0, 1))
    assert sections(dense) == [*titles, "Out of the ordinary"]
    assert sections(routed) == [*titles, "Experts", "Out of the ordinary"]
    assert sections(wv.inspect(EXAMPLE, 0, stats=False)) == titles[:3]


def test_many_heads_and_experts_are_shown_by_their_spread() -> None:
    page = wv.inspect(EXAMPLE, 1)
    many = replace(
        page,
        heads=replace(page.heads, rows=page.heads.rows * (MOST_ROWS // 8 + 1)),
        experts=replace(page.experts, rows=page.experts.rows * (MOST_ROWS // 4 + 1)),
    )
    assert len(str(many).splitlines()) <= len(str(page).splitlines()) + 4
    assert "HEAD  QK NORM" not in str(many)


def test_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    name = "model.layers.0.\x1b[31m[red]\nwhite"
    save_file({name: np.zeros((2, 3), np.float32)}, tmp_path / "m.safetensors")
    for page in (wv.inspect(tmp_path / "m.safetensors"), wv.inspect(tmp_path / "m.safetensors", 0)):
        assert "\x1b" not in str(page)
        assert "\\x1b[31m[red]\\nwhite" in str(page).replace("\n", "").replace(" ", "")


def test_anomalies_are_cut_and_counted() -> None:
    page = wv.inspect(EXAMPLE)
    rows = [("nan", 0, f"model.layers.0.t{i}.weight", 1, "of 2 values") for i in range(40)]
    text = str(replace(page, anomalies=replace(page.anomalies, rows=tuple(rows))))
    assert text.count("1 NaN") == 12
    assert "and in 28 more" in text


def test_numbers_are_short() -> None:
    assert [number(x) for x in (None, float("nan"), 0.123456, 1234567, 12.0)] == [
        "",
        "",
        "0.1235",
        "1,234,567",
        "12",
    ]
    assert [short(n) for n in (7, 999, 1000, 4_263_688, 671 * 10**9)] == [
        "7",
        "999",
        "1 K",
        "4.264 M",
        "671 B",
    ]


def test_bars_grow_by_eighths() -> None:
    assert [bar(x, 8).plain for x in (0, 1, 4.5, 8, float("nan"))] == ["", "█", "████▌", "████████", ""]


def test_one_is_not_counted_as_many() -> None:
    assert counted("zero_rows", 1) == "1 row of zeros"
    assert counted("dead_features", 1) == "1 dead feature"
    assert counted("constant_rows", 1200) == "1,200 rows of one value"
