"""Models that other people's tools made give the logits that other people's code computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex
from tests.support.golden import GOLDEN, golden
from tests.support.planned import require_whole_ledger
from tests.support.stores import Stores, require_same_store
from wvindex.infer import Model

TOLERANCE = 5e-4 / 3  # of the logits' standard deviation
FAMILIES = [path.name for path in golden("families/*")]
KINDS = {"hf": "logits", "{}-BF16.gguf": "logits", "{}-Q4_K_M.gguf": "q4km_logits"}
LLAMA = [path.stem for path in golden("llama-tiny/*.gguf")]


def require_logits(store: Path, saved: Path) -> None:
    """Compare every sequence that `saved` has: ``tokens``, ``logits``, or ``tokens16``, ..."""
    with np.load(saved) as arrays, wvindex.open(store) as db:
        model = Model(db)
        lengths = [name.removeprefix("tokens") for name in arrays.files if name.startswith("tokens")]
        assert lengths
        for length in lengths:
            require_equal(model.forward(arrays[f"tokens{length}"]).logits, arrays[f"logits{length}"])


def require_equal(found: NDArray[np.float32], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * expected.std()
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.fixture(scope="session")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the script that makes the models of which only the logits are kept."""
    directory = tmp_path_factory.mktemp("remade")
    script = GOLDEN / "make_models.py"
    subprocess.run([sys.executable, script, directory], check=True, capture_output=True, timeout=300)
    return directory


def test_there_are_reference_models() -> None:
    assert len(FAMILIES) >= 6
    assert len(LLAMA) >= 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, kind: str, stores: Stores) -> None:
    directory = GOLDEN / "families" / family
    require_logits(stores.build(directory / kind.format(family)), directory / f"{KINDS[kind]}.npz")


@pytest.mark.parametrize("stem", LLAMA)
def test_llama_tiny(stem: str, stores: Stores) -> None:
    directory = GOLDEN / "llama-tiny"
    require_logits(stores.build(directory / f"{stem}.gguf"), directory / f"{stem}.logits.npz")


def test_dsv2lite_tiny(stores: Stores) -> None:
    stem = GOLDEN / "dsv2lite-tiny" / "dsv2lite-tiny-Q4_K_M"
    require_logits(stores.build(stem.with_suffix(".gguf")), stem.with_suffix(".logits.npz"))


@pytest.mark.parametrize(
    ("source", "saved"),
    [
        ("hf", "tiny-kjv"),
        ("tiny-kjv-Q8_0.gguf", "tiny-kjv-Q8_0"),
        ("tiny-kjv-Q4_K_M.gguf", "tiny-kjv-Q4_K_M"),
    ],
)
def test_tiny_kjv(source: str, saved: str, stores: Stores) -> None:
    directory = GOLDEN / "tiny-kjv"
    require_logits(stores.build(directory / source), directory / f"{saved}.logits.npz")


@pytest.mark.parametrize("path", golden("**/*.gguf"), ids=lambda path: path.stem)
def test_every_tensor_is_accounted_for(path: Path) -> None:
    plan = wvindex.plan(path)
    require_whole_ledger(plan, [entry.tensor for entry in plan.ledger])
    assert all(op.spec.mapped for op in plan.operations) == (path.stem != "type-zoo")


@pytest.mark.parametrize("path", golden("**/*Q4_K_M.gguf"), ids=lambda path: path.stem)
def test_a_bare_file_is_the_store_that_keeps(path: Path, stores: Stores) -> None:
    with wvindex.open(path) as bare, wvindex.open(stores.build(path, mla="keep")) as built:
        require_same_store(bare, built)


@pytest.mark.parametrize("name", ["dsv3-tiny", "llama-tiny"])
def test_remade_models(name: str, remade: Path, stores: Stores) -> None:
    require_logits(stores.build(remade / name / "hf"), GOLDEN / name / "float64.logits.npz")


def test_a_remade_models_prediction_layer_is_marked(remade: Path, stores: Stores) -> None:
    with wvindex.open(stores.build(remade / "dsv3-tiny" / "hf")) as db:
        layers = db.config.num_hidden_layers
        beyond = [key for key in db if db[key].mtp]
        assert beyond
        assert all(key.startswith(f"model.layers.{layers}.") for key in beyond)
