"""The forward pass equals an independent float64 one, whole or in pieces, and hands out what lies between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex.infer
from tests.support.plain_forward import PlainForward
from tests.support.tiny_models import LAYERS, MODELS, ROPE, VOCAB, tiny_model
from wvindex.errors import SelectionError, UsageError
from wvindex.infer import Model, layer

TOKENS = np.random.default_rng(5).integers(0, VOCAB, 21).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_every_activation_equal_the_float64_forward(name: str) -> None:
    db = tiny_model(name)
    plain = PlainForward(db, TOKENS)
    out = Model(db).forward(TOKENS, capture=["*"])
    assert set(out.captured) == set(plain.seen)
    for activation, expected in plain.seen.items():
        np.testing.assert_allclose(
            out.captured[activation], expected, rtol=1e-4, atol=1e-4, err_msg=activation
        )
    np.testing.assert_allclose(out.logits, plain.logits, rtol=1e-4, atol=1e-4)
    assert out.logits.dtype == np.float32
    assert plain.logits.std() > 0.5


def test_leaving_out_the_row_scale_would_show() -> None:
    db = tiny_model("asymmetric")
    expected = PlainForward(db, TOKENS).logits
    db.row_scales.clear()
    assert np.abs(Model(db).forward(TOKENS).logits - expected).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pieces", [(1,) * 21, (20, 1), (7, 5, 9)])
def test_pieces_through_a_cache_equal_the_whole(name: str, pieces: tuple[int, ...]) -> None:
    model = Model(tiny_model(name))
    cache, at, rows = model.new_cache(), 0, []
    for size in pieces:
        rows.append(model.forward(TOKENS[at : at + size], cache=cache).logits)
        at += size
    np.testing.assert_allclose(np.concatenate(rows), model.forward(TOKENS).logits, rtol=1e-5, atol=1e-4)
    assert cache.length == len(TOKENS)


def test_last_only_gives_the_last_row() -> None:
    model = Model(tiny_model("llama"))
    last = model.forward(TOKENS, last_only=True).logits
    assert last.shape == (1, VOCAB)
    np.testing.assert_allclose(last[0], model.forward(TOKENS).logits[-1], rtol=1e-5, atol=1e-4)


def test_a_pattern_captures_the_names_that_match_and_no_others() -> None:
    out = Model(tiny_model("mixture")).forward(
        TOKENS, capture=["layers.[12].attn.?", "layers.1.mlp.router.*"]
    )
    assert sorted(out.captured) == [
        "layers.1.attn.k",
        "layers.1.attn.q",
        "layers.1.attn.v",
        "layers.1.mlp.router.experts",
        "layers.1.mlp.router.logits",
        "layers.1.mlp.router.weights",
        "layers.2.attn.k",
        "layers.2.attn.q",
        "layers.2.attn.v",
    ]


def test_keys_are_captured_of_the_new_tokens_alone() -> None:
    model = Model(tiny_model("llama"))
    cache = model.new_cache()
    model.forward(TOKENS[:9], cache=cache)
    assert model.forward(TOKENS[9:], capture=["layers.0.attn.k"], cache=cache).captured[
        "layers.0.attn.k"
    ].shape == (12, 16)


def test_a_name_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(UsageError, match=r"layers\.\{L\}\.attn\.heads.*L in 0\.\.2.*found: layers\.9\.resid"):
        Model(tiny_model("llama")).forward(TOKENS, capture=["embed", "layers.9.resid"])


def test_generation_takes_the_likeliest_token_each_time() -> None:
    db = tiny_model("sandwich")
    sequence = list(TOKENS)
    for _ in range(6):
        sequence.append(int(PlainForward(db, sequence).logits[-1].argmax()))
    assert Model(db).generate(TOKENS, max_new_tokens=6) == sequence[len(TOKENS) :]


def test_generation_is_repeatable_from_a_seed_and_varies_between_seeds() -> None:
    model = Model(tiny_model("llama"))
    runs = [model.generate(TOKENS, 12, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert model.generate(TOKENS, 12) == model.generate(TOKENS, 12)


def test_the_stream_gives_the_same_tokens_one_by_one() -> None:
    model = Model(tiny_model("llama"))
    stream = model.stream(TOKENS, 5)
    assert [next(stream), *stream] == model.generate(TOKENS, 5)


def test_generation_stops_after_an_end_token() -> None:
    db = tiny_model("llama")
    free = Model(db).generate(TOKENS, 10)
    db.config = replace(db.config, eos_token_ids=(VOCAB + 1, free[3]))
    assert Model(db).generate(TOKENS, 10) == free[: free.index(free[3]) + 1]


def test_no_new_tokens_are_none() -> None:
    assert Model(tiny_model("llama")).generate(TOKENS, 0) == []


def test_generation_past_the_long_rope_threshold_equals_full_passes() -> None:
    db = tiny_model("llama")
    long = replace(ROPE, long_inv_freq=(0.3, 0.03, 0.003, 0.0003), original_max_position_embeddings=23)
    db.config = replace(db.config, rope={"full_attention": long})
    model, sequence = Model(db), list(TOKENS)
    for _ in range(6):
        sequence.append(int(model.forward(sequence).logits[-1].argmax()))
    assert model.generate(TOKENS, 6) == sequence[len(TOKENS) :]


@pytest.mark.parametrize("max_memory", [0, 3000, "4GiB"])
def test_the_memory_budget_does_not_change_the_result(max_memory: int | str) -> None:
    model = Model(tiny_model("mixture"), max_memory=max_memory)
    np.testing.assert_allclose(
        model.forward(TOKENS).logits, PlainForward(tiny_model("mixture"), TOKENS).logits, atol=1e-4
    )
    assert model.weights.nbytes <= model.weights.max_memory


@pytest.mark.parametrize("name", ["llama", "asymmetric", "mixture"])
def test_later_passes_read_only_what_the_budget_had_no_room_for(name: str) -> None:
    db = tiny_model(name)
    model = Model(db, max_memory=12_000)
    model.forward(TOKENS)
    before = len(db.reads)
    model.forward(TOKENS)
    again = {read.removesuffix(", streamed") for read in db.reads[before:]}
    kept = {read for read in db.reads[:before] if not read.endswith(", streamed")} - again
    assert again
    assert "model.layers.0.self_attn.q_proj.weight" in kept


def test_only_the_rows_and_experts_that_are_needed_are_read() -> None:
    db = tiny_model("mixture")
    out = Model(db).forward([7, 3, 7], capture=["*.experts"])
    embedding = [read for read in db.reads if read.startswith("model.embed_tokens")]
    assert embedding == ["model.embed_tokens.weight[[3, 7]]"]
    read = {r.partition("#")[2] for r in db.reads if r.startswith("model.layers.1.mlp.experts.up")}
    assert read == {str(e) for e in out.captured["layers.1.mlp.router.experts"].flat}
    assert all("#" in r for r in db.reads if ".mlp.experts." in r)


def test_the_scale_of_a_shared_projection_is_read_once_a_layer() -> None:
    db = tiny_model("asymmetric")
    Model(db, max_memory="4GiB").forward(TOKENS)
    assert db.reads.count("model.layers.0.self_attn.other.weight") == 1


def test_an_interrupted_pass_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(tiny_model("llama"))
    cache = model.new_cache()
    model.forward(TOKENS[:8], cache=cache)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(layer, "gated_mlp", _interrupt)
        model.forward(TOKENS[8:15], cache=cache)
    assert cache.length == 8
    rest = model.forward(TOKENS[8:], cache=cache).logits
    np.testing.assert_allclose(rest, model.forward(TOKENS).logits[8:], rtol=1e-5, atol=1e-4)


def _interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("tokens", [[3, VOCAB], [-1], [3, 2**40]])
def test_a_token_outside_the_vocabulary_is_named(tokens: list[int]) -> None:
    with pytest.raises(SelectionError, match=rf"expected: 0 to {VOCAB - 1}, found: {tokens[-1]}"):
        Model(tiny_model("llama")).forward(tokens)


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [1.5], ["a"]])
def test_tokens_must_be_a_sequence_of_integers(tokens: Any) -> None:
    with pytest.raises(UsageError, match=r"tokens must be a sequence of integers"):
        Model(tiny_model("llama")).forward(tokens)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate([1], -1),
        lambda model: model.generate([1], temperature=-0.1),
        lambda model: model.generate([1], temperature=float("nan")),
        lambda model: model.stream([]),
        lambda model: model.stream([VOCAB]),
    ],
)
def test_generation_refuses_wrong_numbers_at_once(call: Callable[[Model], Any]) -> None:
    with pytest.raises(UsageError):
        call(Model(tiny_model("llama")))


def test_another_models_cache_is_refused() -> None:
    model, other = Model(tiny_model("llama")), Model(tiny_model("asymmetric"))
    cache = other.new_cache()
    other.forward(TOKENS, cache=cache)
    with pytest.raises(UsageError, match=r"another model"):
        model.forward(TOKENS, cache=cache)
    cache.num_layers = LAYERS + 1
    with pytest.raises(UsageError, match=rf"expected: {LAYERS} layers"):
        model.forward(TOKENS, cache=cache)


def test_the_forward_pass_names_no_attention_variant() -> None:
    """It knows projections, heads and a per-token factor: what they came from is the build's affair."""
    folder = Path(wvindex.infer.__file__).parent
    for module in sorted(folder.glob("*.py")):
        source = module.read_text(encoding="utf-8").lower()
        named = [word for word in ("mla", "lora", "latent") if word in source]
        assert bool(named) == (module.name == "reference_mla.py"), (module.name, named)
