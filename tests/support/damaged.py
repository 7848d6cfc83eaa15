"""Checkpoints with something wrong in them, put there by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.checkpoints import checkpoint
from tests.support.random_weights import Array
from tests.support.recipes import Recipe
from tests.support.safetensors_writer import write_safetensors


def changed(
    name: str, directory: Path, tensors: Mapping[str, Array | None], config: Mapping[str, Any] | None = None
) -> Path:
    """Write a recipe's checkpoint with other tensors (None takes one away) and other fields of its config."""
    made = checkpoint(name)
    values = {key: value for key, value in {**made.tensors, **tensors}.items() if value is not None}
    recipe: Recipe = replace(made.recipe, config={**made.config, **(config or {})})
    return write_safetensors(replace(made, recipe=recipe, tensors=values), directory)
