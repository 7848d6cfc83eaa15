"""Test checkpoints whose down-projections of latent attention are one tensor, made by NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from tests.support.checkpoints import Checkpoint
from tests.support.random_weights import Array

QUERY: Final = ".q_a_proj."
BELOW: Final = ".kv_a_proj_with_mqa."
SGLANG: Final = ".fused_qkv_a_proj_with_mqa."
VLLM: Final = ".fused_qkv_a_proj."


def fused_tensors(tensors: Mapping[str, Array], name: str = SGLANG) -> dict[str, Array]:
    """Put each ``kv_a_proj_with_mqa`` tensor under its ``q_a_proj``, in the place of that."""
    made = {}
    for key, tensor in tensors.items():
        if QUERY in key:
            below = tensors[key.replace(QUERY, BELOW)]
            made[key.replace(QUERY, name)] = np.concatenate([tensor, below])
        elif BELOW not in key:
            made[key] = tensor
    return made


def fused_checkpoint(checkpoint: Checkpoint, name: str = SGLANG) -> Checkpoint:
    """Give the same model in the fused form."""
    return replace(checkpoint, tensors=fused_tensors(checkpoint.tensors, name))
