"""WV5xx: the vocabulary against the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.gguf_writer import write_gguf
from tests.support.planted import Array, Change, edit_json, one_finding, planted

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def resized(rows: int) -> dict[str, Change]:
    def change(values: Array) -> Array:
        return np.resize(values, (rows, values.shape[1])) + np.arange(rows)[:, None].astype(values.dtype) / 64

    return {EMBEDDING: change, HEAD: change}


def test_fewer_rows_than_tokens(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", resized(260), config={"vocab_size": 260})
    findings = wv.check(path).findings
    assert [(f.rule, f.severity, f.tensor, f.row, f.count) for f in findings] == [
        ("WV501", "error", EMBEDDING, 260, 4),
        ("WV501", "error", HEAD, 260, 4),
    ]


def test_more_rows_than_tokens_are_information(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", resized(320), config={"vocab_size": 320})
    report = wv.check(path)
    assert [(f.rule, f.tensor, f.row, f.count) for f in report] == [
        ("WV502", EMBEDDING, 264, 56),
        ("WV502", HEAD, 264, 56),
    ]
    assert report.at_least("warning") == ()


def test_special_tokens_beyond_the_embedding(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", config={"bos_token_id": 264, "eos_token_id": [1, 300]})
    findings = wv.check(path).findings
    assert [(f.rule, f.value) for f in findings] == [("WV503", 264), ("WV503", 300)]


def test_no_token_that_ends_a_text(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", config={"eos_token_id": None})
    edit_json(path / "tokenizer_config.json", eos_token=None)
    assert one_finding(path, "WV504").severity == "warning"


def test_either_may_name_it(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", config={"eos_token_id": None})
    assert wv.check(path).findings == ()


def test_a_tokenizer_that_contradicts_itself(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama")
    (path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": 3}}))
    assert one_finding(path, "WV505").severity == "error"


def test_no_tokenizer_is_a_note(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    report = wv.check(path)
    assert report.findings == ()
    assert report.notes == (
        "the vocabulary is not held against a tokenizer: the checkpoint has no tokenizer",
    )


def test_gguf_vocabularies(tmp_path: Path) -> None:
    (path,) = write_gguf(checkpoint("llama"), tmp_path / "a.gguf")
    field = gguf.GGUFReader(path, "r+").fields["tokenizer.ggml.eos_token_id"]
    field.parts[field.data[0]][0] = 300
    assert [(f.rule, f.value) for f in wv.check(path)] == [("WV503", 300), ("WV505", None)]
