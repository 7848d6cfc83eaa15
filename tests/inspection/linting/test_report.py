"""A report: plain data, the same every time, of one pass over the weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.planted import planted, put
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Consumer, Encoded

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a checkpoint with an error, a warning and information."""
    changes = {
        UP: put((3, 4), float("nan")),
        "model.layers.2.mlp.down_proj.weight": put((..., 7), 0),
        NORM: put(5, -0.5),
    }
    return planted(tmp_path, "llama", changes)


def test_the_gravest_come_first(path: Path) -> None:
    report = wv.check(path)
    assert [finding.rule for finding in report] == ["WV101", "WV104", "WV302"]
    assert [report.count(severity) for severity in ("error", "warning", "info")] == [1, 1, 1]
    assert [len(report.at_least(severity)) for severity in ("error", "warning", "info")] == [1, 2, 3]
    assert len(report) == 3


def test_a_report_is_plain_data(path: Path) -> None:
    report = wv.check(path)
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["findings"][0] == {
        "rule": "WV101",
        "name": "nonfinite-weights",
        "severity": "error",
        "message": "1 NaN and 0 infinite of 24576 values",
        "tensor": UP,
        "layer": 1,
        "expert": None,
        "row": 3,
        "column": 4,
        "value": "NaN",
        "count": 1,
        "indices": [],
        "file": "model.safetensors",
        "source": UP,
    }
    assert loaded["counts"] == {"error": 1, "warning": 1, "info": 1}
    table = report.to_table()
    assert table["rule"] == ["WV101", "WV104", "WV302"]
    assert table["indices"] == [[], [7], [5]]


def test_a_report_is_the_same_every_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.dumps(wv.check(path).to_dict())
    monkeypatch.setenv("WVINDEX_THREADS", "1")
    assert json.dumps(wv.check(path).to_dict()) == first


def test_all_rules_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed: Counter[str] = Counter()
    stream = Tensor.stream

    def counting(self: Tensor, consume: Consumer, *, encoded: Encoded | None = None) -> None:
        streamed[self.key] += 1
        stream(self, consume, encoded=encoded)

    monkeypatch.setattr(Tensor, "stream", counting)
    with wv.open(EXAMPLE) as db:
        wv.check(db)
        assert set(streamed) == {key for key, tensor in db.items() if tensor.ndim > 1}
    assert set(streamed.values()) == {1}


def test_progress_ends_with_all_bytes() -> None:
    seen: list[tuple[int, int]] = []
    report = wv.check(EXAMPLE, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (report.nbytes, report.nbytes)


def test_an_open_database_stays_open() -> None:
    with wv.open(EXAMPLE) as db:
        wv.check(db)
        assert db["model.norm.weight"][:].size
