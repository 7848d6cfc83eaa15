"""The store's logits are transformers', for every family, from every form that its checkpoints have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex
from tests.support.checkpoints import checkpoint, golden, names
from tests.support.stores import Stores
from wvindex.infer import Model

TOLERANCE = 5e-4 / 3  # of the logits' standard deviation
CACHED = 1e-4
HERE = Path(__file__).parent
LATENT = [name for name in names(gguf=True) if "kv_lora_rank" in checkpoint(name).config]


def require_golden(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * expected.std()
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def logits(store: Path, ids: NDArray[Any]) -> NDArray[np.float32]:
    with wvindex.open(store) as db:
        return Model(db).forward(ids).logits


@pytest.mark.parametrize(
    ("form", "experts", "shards"), [("hub", "each", 1), ("v5", "fused", 1), ("hub", "mixed", 2)]
)
@pytest.mark.parametrize("name", names())
def test_from_safetensors(name: str, form: Any, experts: Any, shards: int, stores: Stores) -> None:
    ids, expected = golden(name)
    assert len(ids) >= 64
    require_golden(logits(stores.build(stores.safetensors(name, form, experts, shards)), ids), expected)


@pytest.mark.parametrize("name", names(gguf=True))
def test_from_gguf(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    require_golden(logits(stores.build(stores.gguf(name)), ids), expected)


@pytest.mark.parametrize("name", LATENT)
def test_from_the_older_gguf_form_of_latent_attention(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    require_golden(logits(stores.build(stores.gguf(name, "kv_b")), ids), expected)


@pytest.mark.parametrize("name", LATENT)
def test_a_store_with_both_forms_runs_the_dense_one(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    require_golden(logits(stores.build(stores.safetensors(name), mla="both"), ids), expected)


@pytest.mark.parametrize("pieces", [(30, *(1,) * 50), (30, 7, 43)], ids=["one by one", "in blocks"])
@pytest.mark.parametrize("name", names())
def test_pieces_through_a_cache_are_the_whole(name: str, pieces: tuple[int, ...], stores: Stores) -> None:
    ids, _ = golden(name)
    with wvindex.open(stores.build(stores.safetensors(name))) as db:
        model = Model(db)
        # With LongRoPE a sequence that grows past the threshold changes its frequencies: stay on one side.
        start = 64 if name == "phi3-longrope" else 0
        sizes = (start, *pieces) if start else pieces
        ids = np.concatenate([ids, ids])[: sum(sizes)]
        sizes = (sizes[0] + sizes[1], *sizes[2:]) if start else sizes
        whole, cache, rows, at = model.forward(ids).logits, model.new_cache(), [], 0
        for size in sizes:
            rows.append(model.forward(ids[at : at + size], cache=cache).logits)
            at += size
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=0, atol=CACHED)


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K_M"])
def test_from_llama_cpps_quantized_files(kind: str, stores: Stores) -> None:
    with np.load(HERE / f"llama-tiny-{kind}.logits.npz") as saved:
        store = stores.build(HERE / f"llama-tiny-{kind}.gguf")
        for length in (16, 96):
            require_golden(logits(store, saved[f"tokens{length}"]), saved[f"logits{length}"])
