"""``wvindex run``: a sentence continued, as text or as tokens."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import wvindex
from tests.support.cli import EXAMPLE, argv, document, environment, invoke, succeed
from tests.support.golden import COMMITTED
from tests.support.stores import Stores
from wvindex.infer import Model

PROMPT = "In the beginning"


@pytest.fixture(scope="module")
def mute(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a tokenizer."""
    source = tmp_path_factory.mktemp("mute") / "model"
    shutil.copytree(stores.safetensors("llama"), source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    return stores.build(source)


def test_a_sentence_is_continued_with_the_stores_own_tokenizer(kjv: Path) -> None:
    with wvindex.open(kjv) as db:
        tokenizer = db.tokenizer
        ids = tokenizer.encode(PROMPT)
        expected = tokenizer.decode(ids + Model(db).generate(ids, 20))
    assert succeed("run", kjv, PROMPT, "-n", "20") == f"{expected}\n"
    assert expected.startswith(PROMPT)


def test_the_next_token_is_the_references(kjv: Path) -> None:
    with np.load(COMMITTED / "tiny-kjv-Q8_0.logits.npz") as saved:
        tokens, logits = saved["tokens"], saved["logits"]
    best = np.argsort(-logits[-1])[:5]
    shown = document("run", kjv, "--tokens", ",".join(map(str, tokens)), "--top", "5")
    assert [one["token"] for one in shown["top"]] == best.tolist()
    np.testing.assert_allclose([one["logit"] for one in shown["top"]], logits[-1][best], atol=5e-4)
    weights = np.exp(logits[-1].astype(np.float64))
    probabilities = weights[best] / weights.sum()
    np.testing.assert_allclose([one["probability"] for one in shown["top"]], probabilities, rtol=1e-3)


def test_top_prints_a_table(kjv: Path) -> None:
    header, *rows = [line.split() for line in succeed("run", kjv, PROMPT, "--top", "3").splitlines()]
    assert header == ["TEXT", "TOKEN", "LOGIT", "PROBABILITY"]
    assert [int(row[1]) for row in rows] == [
        one["token"] for one in document("run", kjv, PROMPT, "--top", "3")["top"]
    ]


def test_json_tells_text_and_tokens(kjv: Path) -> None:
    said = document("run", kjv, PROMPT, "-n", "6")
    assert said["prompt"] == PROMPT
    assert len(said["tokens"]) == 6
    assert said["stopped"] == "length"
    with wvindex.open(kjv) as db:
        assert said["prompt_tokens"] == db.tokenizer.encode(PROMPT)
        assert said["prompt"] + said["text"] == db.tokenizer.decode(said["prompt_tokens"] + said["tokens"])


def test_the_end_of_the_text_is_told(kjv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "stream", lambda *_: iter([270, 1]))
    said = document("run", kjv, PROMPT)
    assert (said["tokens"], said["stopped"]) == ([270, 1], "eos")


def test_tokens_come_out_as_text_where_there_is_a_tokenizer(kjv: Path) -> None:
    ids = ",".join(map(str, document("run", kjv, PROMPT, "-n", "1")["prompt_tokens"]))
    assert succeed("run", kjv, "--tokens", ids, "-n", "8") == succeed("run", kjv, PROMPT, "-n", "8")


def test_tokens_come_out_as_ids_where_there_is_none(mute: Path) -> None:
    result = invoke("run", mute, "--tokens", "5,6,7", "-n", "4")
    with wvindex.open(mute) as db:
        expected = Model(db).generate([5, 6, 7], 4)
    assert result.stdout == ",".join(map(str, expected)) + "\n"
    assert result.stderr.startswith("no tokenizer, so ids alone: ")
    said = document("run", mute, "--tokens", "5,6,7", "-n", "4")
    assert (said["tokens"], said["text"], said["prompt"]) == (expected, None, None)


def test_a_prompt_needs_a_tokenizer(mute: Path) -> None:
    result = invoke("run", mute, PROMPT)
    assert result.exit_code == 4
    assert result.stderr.startswith("error[unsupported-tokenizer]: ")


def test_a_seed_makes_draws_repeatable(kjv: Path) -> None:
    drawn = [succeed("run", kjv, PROMPT, "--temperature", "1.5", "--seed", seed) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_text_comes_as_it_is_made(kjv: Path) -> None:
    start = (
        "import sys; from wvindex.cli.main import main; from wvindex.infer import Model\n"
        "def stream(*_):\n"
        "    yield 270\n"
        "    sys.stdin.read()  # nothing more before the test has seen the first\n"
        "    yield 260\n"
        "Model.stream = stream; main()"
    )
    with subprocess.Popen(
        argv(["run", kjv, PROMPT], start),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        first = b"In the beginning of"
        assert running.stdout.read(len(first)) == first
        running.stdin.close()
        assert running.stdout.read() == b" the\n"


def test_a_little_memory_gives_the_same_text(kjv: Path) -> None:
    assert succeed("run", kjv, PROMPT, "--max-memory", "0") == succeed("run", kjv, PROMPT)


def test_a_bare_file_of_factors_is_refused_by_name() -> None:
    result = invoke("run", EXAMPLE, PROMPT)
    assert result.exit_code == 4
    assert "Multi-head Latent Attention" in result.stderr
    assert f"`wvindex build {EXAMPLE}`" in result.stderr


def test_a_store_of_factors_is_refused_by_name(tmp_path: Path) -> None:
    result = invoke("run", wvindex.build(EXAMPLE, tmp_path / "kept.zarr", mla="keep"), PROMPT)
    assert result.exit_code == 4
    assert "build its source again with --mla absorb" in result.stderr


def test_a_bare_dense_file_runs(stores: Stores) -> None:
    bare = stores.safetensors("llama")
    assert document("run", bare, "the", "-n", "5") == document("run", stores.build(bare), "the", "-n", "5")


@pytest.mark.parametrize(
    "arguments",
    [[], [PROMPT, "--tokens", "1"], ["--tokens", "1,a"], ["--tokens", ""], [PROMPT, "-n", "-1"]],
)
def test_wrong_calls(arguments: list[str], kjv: Path) -> None:
    result = invoke("run", kjv, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error[usage]: ")


def test_more_tokens_than_an_indexer_lets_through_are_refused_by_name(stores: Stores) -> None:
    store = stores.build(stores.safetensors("glm_moe_dsa"))
    result = invoke("run", store, "the sand " * 30, "-n", "1")
    assert result.exit_code == 4
    assert "index_topk" in result.stderr
    assert "at most 80 tokens" in result.stderr
