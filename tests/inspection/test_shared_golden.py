"""What llama.cpp converted does not differ from its checkpoint; what it quantized does, as it should."""

from __future__ import annotations

import pytest

import wvindex as wv
from tests.support.golden import GOLDEN, golden
from tests.support.stores import Stores

FAMILIES = [path.name for path in golden("families/*")]
LLAMA = GOLDEN / "llama-tiny"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_llama_cpp_converted_does_not_differ(family: str, stores: Stores) -> None:
    directory = GOLDEN / "families" / family
    found = wv.diff(stores.build(directory / "hf"), directory / f"{family}-BF16.gguf")
    assert set(found.tensors["status"]) <= {"same", "rounding"}
    assert len(found.missing) == len(found.extra) == len(found.unlike) == 0
    assert not any(found.config["matters"])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_quantized_does(family: str) -> None:
    directory = GOLDEN / "families" / family
    found = wv.diff(directory / f"{family}-BF16.gguf", directory / f"{family}-Q4_K_M.gguf")
    (model,) = found.model
    assert 0.02 < model["rel_l2"] < 0.12
    assert model["b_bits"] < 8 < model["a_bits"]


def test_fewer_bits_are_more_damage() -> None:
    reference = LLAMA / "llama-tiny-F16.gguf"
    damage = {
        name: next(iter(wv.diff(reference, LLAMA / f"llama-tiny-{name}.gguf").model))["rel_l2"]
        for name in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_L", "Q2_K")
    }
    assert list(damage.values()) == sorted(damage.values())


def test_within_a_file_tensors_of_fewer_bits_rank_first() -> None:
    found = wv.diff(LLAMA / "llama-tiny-F16.gguf", LLAMA / "llama-tiny-Q3_K_L.gguf")
    ranked = [row["b_bits"] for row in found.tensors if row["b_bits"] < 16]
    assert ranked == sorted(ranked)
