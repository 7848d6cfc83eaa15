"""A sparse attention runs for as many tokens as its indexer would let through, and no more."""

from __future__ import annotations

import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint, golden
from tests.support.stores import Stores
from wvindex.errors import UnsupportedModel
from wvindex.infer import Model

SPARSE = ("deepseek_v32", "glm_moe_dsa")
LIMIT = 80


def require_named(caught: pytest.ExceptionInfo[UnsupportedModel], found: int) -> None:
    assert caught.value.field == "index_topk"
    assert (caught.value.expected, caught.value.found) == (f"at most {LIMIT} tokens", found)


@pytest.mark.parametrize("name", SPARSE)
def test_the_last_token_that_fits_is_run_and_the_next_is_refused(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    assert len(ids) == checkpoint(name).config["index_topk"] == LIMIT
    with wvindex.open(stores.build(stores.safetensors(name))) as db:
        model = Model(db)
        assert np.abs(model.forward(ids).logits - expected).max() < 5e-4
        with pytest.raises(UnsupportedModel) as caught:
            model.forward([*ids, 3])
        require_named(caught, LIMIT + 1)


def test_tokens_in_the_cache_count(stores: Stores) -> None:
    ids, _ = golden("deepseek_v32")
    with wvindex.open(stores.build(stores.safetensors("deepseek_v32"))) as db:
        model = Model(db)
        cache = model.new_cache()
        model.forward(ids[:50], cache=cache)
        with pytest.raises(UnsupportedModel) as caught:
            model.forward(ids[:31], cache=cache)
        require_named(caught, LIMIT + 1)
        assert cache.length == 50
        model.forward(ids[50:], cache=cache)
        assert cache.length == LIMIT


def test_a_continuation_ends_with_an_error_where_it_grows_too_long(stores: Stores) -> None:
    ids, _ = golden("glm_moe_dsa")
    with wvindex.open(stores.build(stores.safetensors("glm_moe_dsa"))) as db:
        model = Model(db)
        given: list[int] = []
        with pytest.raises(UnsupportedModel) as caught:
            given.extend(iter(model.stream(ids[:78], 10)))
        require_named(caught, LIMIT + 1)
        with pytest.raises(UnsupportedModel):
            model.stream([*ids, 3], 1)  # at once, before a token is asked for


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_the_indexer_is_stored_and_not_absorbed(name: str, form: str, stores: Stores) -> None:
    source = stores.safetensors(name) if form == "safetensors" else stores.gguf(name)
    layers = checkpoint(name).config["num_hidden_layers"]
    tensors = {k: v for k, v in checkpoint(name).decoded().items() if ".indexer." in k}
    tensors = {k: v for k, v in tensors.items() if int(k.split(".")[2]) < layers or form == "safetensors"}
    assert len(tensors) >= 5 * (layers - 1)
    with wvindex.open(stores.build(source)) as db:
        assert db.config.refuses_to_run == ()
        assert {key for key in db if ".indexer." in key} == set(tensors)
        for key, expected in tensors.items():
            assert db[key].exactness == "bit"
            np.testing.assert_array_equal(db[key].read(dtype="float32"), expected)
