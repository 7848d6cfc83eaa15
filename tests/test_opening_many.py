"""Opening a checkpoint of many tensors: a little work for each, and for most of it none until asked."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wvindex
from benchmarks.many import DeepSeek, write_deepseek
from wvindex.arch.naming import _layer_role
from wvindex.formats.ledger import LedgerEntry
from wvindex.transform.rows import SourceRows

SMALL = DeepSeek(layers=4, experts=8, dense_layers=1, shards=2)
CALLS_A_TENSOR = 21
"""Calls of any function, C's included, that another expert's tensor may cost."""


def calls_of_opening(path: Path) -> int:
    """Count the calls of functions, Python's and C's."""
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        wvindex.open(path).close()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the objects of some classes that are made."""
    counts: Counter[str] = Counter()

    def counted(kind: type) -> None:
        init: Any = vars(kind)["__init__"]

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            counts[kind.__name__] += 1
            init(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", __init__)

    counted(SourceRows)
    counted(LedgerEntry)
    return counts


def test_another_tensor_costs_a_few_calls_however_many_there_are(tmp_path: Path) -> None:
    experts = (8, 16, 64, 128)
    tensors = [write_deepseek(tmp_path / str(n), replace(SMALL, experts=n)) for n in experts]
    calls_of_opening(tmp_path / "128")  # what is imported, compiled and remembered once
    calls = [calls_of_opening(tmp_path / str(n)) for n in experts]
    few = (calls[1] - calls[0]) / (tensors[1] - tensors[0])
    many = (calls[3] - calls[2]) / (tensors[3] - tensors[2])
    assert 0 < few <= CALLS_A_TENSOR
    assert 0 < many <= CALLS_A_TENSOR
    assert many == pytest.approx(few, rel=0.1)


def test_a_role_is_worked_out_once_for_all_layers(tmp_path: Path) -> None:
    for layers in (4, 8):
        write_deepseek(tmp_path / str(layers), replace(SMALL, layers=layers))
    wvindex.open(tmp_path / "4").close()
    known = _layer_role.cache_info().misses
    wvindex.open(tmp_path / "8").close()
    assert _layer_role.cache_info().misses == known


def test_rows_of_experts_are_made_when_they_are_read(tmp_path: Path, made: Counter[str]) -> None:
    for experts in (8, 64):
        write_deepseek(tmp_path / str(experts), replace(SMALL, experts=experts))
        made.clear()
        with wvindex.open(tmp_path / str(experts)) as db:
            assert made["SourceRows"] < 4 * len(db)
            stack = db["model.layers.2.mlp.experts.up_proj.weight"]
            made.clear()
            assert not stack.expert(5).read(rows=(0, 1)).any()  # of a file that is a hole
            assert 0 < made["SourceRows"] <= 4


def test_the_ledger_is_written_when_it_is_asked_for(tmp_path: Path, made: Counter[str]) -> None:
    n_tensors = write_deepseek(tmp_path / "model", SMALL)
    with wvindex.open(tmp_path / "model") as db:
        assert made["LedgerEntry"] == 0
        assert len(db.ledger) == made["LedgerEntry"] == n_tensors
        assert db.ledger is db.ledger
        scales = next(e for e in db.ledger if e.tensor.endswith("experts.3.up_proj.weight_scale_inv"))
        assert (scales.keys, scales.reason) == (("model.layers.1.mlp.experts.up_proj.weight",), "scales")


def test_every_experts_own_name_is_known_though_none_was_listed(tmp_path: Path) -> None:
    write_deepseek(tmp_path / "model", SMALL)
    with wvindex.open(tmp_path / "model") as db:
        name = "model.layers.3.mlp.experts.7.down_proj.weight"
        assert db[name].source == (name,)
        assert db[name].shape == (SMALL.hidden, 2048)
