"""Saved queries: each answers its question, where the answer was planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.packed import REPO_GOLDEN
from tests.support.safetensors_writer import write_safetensors
from wvindex.errors import UsageError
from wvindex.inspection.sql.recipes import recipe

Q4, Q2 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", REPO_GOLDEN / "llama-tiny-Q2_K.gguf"


def answer(name: str, *sources: Any) -> wv.Table:
    return wv.sql(recipe(name).query, *sources)


def test_each_has_a_title_and_runs() -> None:
    saved = wv.sql_recipes()
    assert len(saved) >= 6
    for one in saved:
        assert one["query"].startswith(f"-- {one['title']}\n")
        assert len(answer(one["recipe"], Q4, Q2).columns) >= 4


def test_an_unknown_one_is_refused_with_the_known() -> None:
    with pytest.raises(UsageError, match="bits-by-role"):
        recipe("../secrets")


def test_a_planted_outlier_channel_is_first(tmp_path: Path) -> None:
    source = planted(tmp_path, "llama", "self_attn.q_proj.weight", lambda w: w[:, 5].__imul__(50))
    found = answer("outlier-channels", source)
    assert found["channel"][0] == 5
    assert found["layers"][0] == found["matrices"][0] == 3


def test_a_planted_dead_expert_is_found(tmp_path: Path) -> None:
    source = planted(tmp_path, "mixtral", "experts.1.w1.weight", lambda w: w.__imul__(0))
    found = answer("dead-experts", source)
    assert set(found["expert"]) == {1}
    assert len(found) > 0
    assert all("gate_proj" in key for key in found["key"])


def test_damage_is_of_the_roles_that_were_quantized_more() -> None:
    found = answer("damage-by-role", {"four": Q4, "two": Q2})
    assert set(found["store"]) == {"two"}
    assert found["rel_l2"] == sorted(found["rel_l2"], reverse=True)
    assert found["b_bits"][0] < found["a_bits"][0]


def test_bits_add_up_to_the_file() -> None:
    found = answer("bits-by-role", Q4)
    with wv.open(Q4) as db:
        assert sum(found["tensors"]) == len(db)
        assert sum(found["weights"]) == sum(t.size for t in db.values())
    assert sum(found["percent"]) == pytest.approx(100)


def planted(directory: Path, name: str, suffix: str, change: Any) -> Path:
    """Write a checkpoint with some tensors changed in place."""
    made = checkpoint(name)
    tensors = {key: np.array(values) for key, values in made.tensors.items()}
    for key, values in tensors.items():
        if key.endswith(suffix):
            change(values)
    return write_safetensors(replace(made, tensors=tensors), directory / name)
