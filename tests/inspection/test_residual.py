"""Which side of a matrix the residual stream is on is told by its role, or by a shape that is plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.arrays import CONFIG
from tests.support.stores import Stores
from tests.support.tensors import RowsInMemory, plain_tensor
from wvindex.errors import SelectionError, UnsupportedModel, UsageError
from wvindex.inspection.residual import gain_after, residual_vectors, side_of
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

HIDDEN = 8


def tensor(key: str, *shape: int) -> Tensor:
    return plain_tensor(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), key=key)


def store(tensors: list[Tensor], hidden: int | None = HIDDEN) -> Store:
    arrays = {t.key: (t.spec, RowsInMemory(t.raw())) for t in tensors}
    return Store("memory", replace(CONFIG, hidden_size=hidden), arrays)


@pytest.mark.parametrize(
    ("role", "shape", "side"),
    [
        ("mlp.gate_proj.weight", (8, 8), "rows"),
        ("mlp.down_proj.weight", (8, 8), "columns"),
        ("self_attn.o_proj.weight", (8, 24), "columns"),
        ("self_attn.q_proj.weight", (24, 8), "rows"),
        ("mlp.experts.down_proj.weight", (3, 8, 8), "columns"),
        ("mlp.experts.2.down_proj.weight", (8, 8), "columns"),
        ("mlp.shared_experts.up_proj.weight", (8, 8), "rows"),
        ("mlp.gate.weight", (4, 8), "rows"),
        ("self_attn.kv_a_proj_with_mqa.weight", (8, 8), "rows"),
        ("adapter.weight", (24, 8), "rows"),
        ("adapter.weight", (8, 24), "columns"),
    ],
)
def test_sides(role: str, shape: tuple[int, ...], side: str) -> None:
    assert side_of(tensor(f"model.layers.3.{role}", *shape), HIDDEN) == side


@pytest.mark.parametrize(
    ("role", "shape", "reason"),
    [
        ("adapter.weight", (8, 8), "does not tell them apart"),
        ("adapter.weight", (3, 5), "none has its length"),
        ("mlp.gate_proj.weight", (8, 5), "not of this length"),
        ("self_attn.q_b_proj.weight", (8, 8), "between two factors"),
        ("input_layernorm.weight", (8,), "no matrix"),
    ],
)
def test_what_has_no_side_is_refused_by_name(role: str, shape: tuple[int, ...], reason: str) -> None:
    key = f"model.layers.3.{role}"
    with pytest.raises(UsageError, match=reason) as caught:
        side_of(tensor(key, *shape), HIDDEN)
    assert caught.value.tensor == key


@pytest.mark.parametrize(
    ("role", "shape", "index"),
    [
        ("mlp.gate_proj", (5, 8), (2,)),
        ("mlp.gate_proj", (5, 8), (-1, ...)),
        ("mlp.gate_proj", (5, 8), (slice(1, 4),)),
        ("mlp.down_proj", (8, 5), (slice(None), 3)),
        ("mlp.down_proj", (8, 5), (..., slice(None, None, 2))),
        ("mlp.experts.up_proj", (3, 5, 8), (2, 4)),
        ("mlp.experts.up_proj", (3, 5, 8), (slice(1, 3), slice(0, 2))),
        ("mlp.experts.down_proj", (3, 8, 5), (1, slice(None), 2)),
        ("mlp.experts.down_proj", (3, 8, 5), (slice(None), slice(None), slice(3, None))),
    ],
)
def test_an_index_means_whole_vectors(role: str, shape: tuple[int, ...], index: tuple[Any, ...]) -> None:
    matrix = tensor(f"model.layers.0.{role}.weight", *shape)
    found = residual_vectors(store([matrix]), matrix, index)
    values = np.asarray(matrix).astype(np.float64)
    for vector, (expert, place) in zip(found.values, found.places, strict=True):
        whole = values if expert is None else values[expert]
        np.testing.assert_array_equal(vector, whole[place] if found.side == "rows" else whole[:, place])
    picked = values[index]
    assert found.values.size == picked.size
    assert set(found.values.ravel()) == set(picked.ravel())


@pytest.mark.parametrize(
    ("role", "shape", "index", "form"),
    [
        ("mlp.gate_proj", (5, 8), None, "KEY[row]"),
        ("mlp.gate_proj", (5, 8), (slice(None), 3), "KEY[row]"),
        ("mlp.gate_proj", (5, 8), (1, slice(0, 8, 2)), "KEY[row]"),
        ("mlp.gate_proj", (5, 8), (1, 2, 3), "KEY[row]"),
        ("mlp.down_proj", (8, 5), (3,), "KEY[:, column]"),
        ("mlp.experts.up_proj", (3, 5, 8), (1, slice(None), 2), "KEY[expert, row]"),
        ("mlp.experts.down_proj", (3, 8, 5), (1, 2), "KEY[expert, :, column]"),
        ("mlp.gate_proj", (5, 8), (5,), "0 to 4"),
        ("mlp.gate_proj", (5, 8), (slice(3, 3),), "1 to 1024"),
        ("mlp.gate_proj", (5000, 8), (slice(None),), "1 to 1024"),
    ],
)
def test_other_indices_are_refused_with_the_form(
    role: str, shape: tuple[int, ...], index: tuple[Any, ...] | None, form: str
) -> None:
    matrix = tensor(f"model.layers.0.{role}.weight", *shape)
    with pytest.raises(SelectionError) as caught:
        residual_vectors(store([matrix]), matrix, index)
    assert caught.value.expected == form


def test_what_is_refused_for_its_role_is_not_said_to_lack_a_length() -> None:
    with pytest.raises(UsageError, match="between two factors") as caught:
        side_of(tensor("model.layers.0.self_attn.q_b_proj.weight", 12, 8), HIDDEN)
    assert caught.value.expected is None


def test_an_index_is_quoted_as_it_is_written() -> None:
    matrix = tensor("model.layers.0.mlp.gate_proj.weight", 5, 8)
    with pytest.raises(SelectionError, match=r"found: \[:, 3\]\)"):
        residual_vectors(store([matrix]), matrix, (slice(None), 3))


def test_a_configuration_without_a_width_is_refused() -> None:
    matrix = tensor("model.layers.0.mlp.gate_proj.weight", 5, 8)
    with pytest.raises(UnsupportedModel, match="hidden_size"):
        residual_vectors(store([matrix], hidden=None), matrix, (0,))


@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_gemmas_branches_are_normed_before_they_are_added(name: str, stores: Stores) -> None:
    with wv.open(stores.safetensors(name)) as db:
        for role, norm in (("mlp.down_proj", "post_feedforward"), ("self_attn.o_proj", "post_attention")):
            found = gain_after(db, db[f"model.layers.1.{role}.weight"])
            if name == "llama":
                assert found is None
                continue
            key = f"model.layers.1.{norm}_layernorm.weight"
            assert found is not None
            assert found[0] == key
            np.testing.assert_array_equal(found[1], 1 + db[key][:].astype(np.float64))
        assert gain_after(db, db["model.layers.1.mlp.up_proj.weight"]) is None
