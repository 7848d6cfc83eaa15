"""Codes and exponents of MXFP4 are found by their names and shapes; halves without the other are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from wvindex.arch.mxfp4 import packed_pairs
from wvindex.arch.registry import identify
from wvindex.errors import MetadataError, TensorLayoutError
from wvindex.transform.plan import plan_source

STEM = "model.layers.1.mlp.experts.down_proj"
CODES, EXPONENTS = f"{STEM}_blocks", f"{STEM}_scales"


def source_of(changes: dict[str, Any], *, drop: str = "", recipe: str = "gpt_oss") -> MemorySource:
    tensors: dict[str, Any] = {**checkpoint("gpt_oss").tensors, **changes}
    tensors.pop(drop, None)
    return MemorySource(tensors, checkpoint(recipe).config)


def test_every_pair_is_found_and_stands_for_its_matrices() -> None:
    source = source_of({})
    pairs, refused = packed_pairs(source, identify(source)[0])
    assert refused == {}
    assert len(pairs) == 2 * checkpoint("gpt_oss").config["num_hidden_layers"]
    pair = pairs[CODES]
    assert (pair.weight.encoding.name, pair.weight.shape) == ("MXFP4", (6, 128, 64))
    assert pair.weight.nbytes == 6 * 128 * 64 // 2
    assert pair.exponents.name == EXPONENTS


def test_other_families_have_no_such_pairs() -> None:
    source = source_of({})
    assert packed_pairs(source, None) == ({}, {})
    assert packed_pairs(source, identify(source_of({}, recipe="mixtral"))[0]) == ({}, {})


@pytest.mark.parametrize(
    ("changes", "drop", "kind", "tensor", "expected"),
    [
        ({}, EXPONENTS, MetadataError, CODES, EXPONENTS),
        ({EXPONENTS: np.zeros((6, 128, 3), np.uint8)}, "", TensorLayoutError, EXPONENTS, "(6, 128, 2) of U8"),
        (
            {EXPONENTS: np.zeros((6, 128, 2), np.float32)},
            "",
            TensorLayoutError,
            EXPONENTS,
            "(6, 128, 2) of U8",
        ),
        (
            {CODES: np.zeros((6, 128, 4, 8), np.uint8)},
            "",
            TensorLayoutError,
            CODES,
            "(experts, out, blocks, 16)",
        ),
        (
            {CODES: np.zeros((6, 128, 32), np.uint8)},
            "",
            TensorLayoutError,
            CODES,
            "(experts, out, blocks, 16)",
        ),
    ],
)
def test_what_is_no_pair_is_refused_by_name(
    changes: dict[str, Any], drop: str, kind: type[Exception], tensor: str, expected: str
) -> None:
    plan = plan_source(source_of(changes, drop=drop))
    error = next(refusal.error for refusal in plan.refusals if refusal.tensor == CODES)
    assert isinstance(error, kind)
    assert (error.tensor, str(error.expected)) == (tensor, expected)


def test_exponents_alone_are_kept_under_their_own_name() -> None:
    plan = plan_source(source_of({}, drop=CODES))
    [entry] = [entry for entry in plan.ledger if entry.tensor == EXPONENTS]
    assert (entry.keys, entry.reason) == ((EXPONENTS,), None)
