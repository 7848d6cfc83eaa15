"""Checkpoints with anomalies planted in them, and what a check must say of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

import wvindex as wv
from tests.support.checkpoints import Checkpoint, checkpoint
from tests.support.safetensors_writer import write_safetensors

Array = NDArray[Any]
Change = Callable[[Array], Array | None]
"""Changes a copy in place, or gives another."""


def planted(
    directory: Path,
    name: str,
    changes: Mapping[str, Change] | None = None,
    *,
    add: Mapping[str, Array] | None = None,
    drop: tuple[str, ...] = (),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a recipe's checkpoint with tensors changed, added and left out, and its configuration changed.

    Returns
    -------
    Path
        The directory.
    """
    healthy = checkpoint(name)
    tensors = {key: values for key, values in healthy.tensors.items() if key not in drop}
    for key, change in (changes or {}).items():
        values = tensors[key].copy()
        other = change(values)
        tensors[key] = values if other is None else other
    recipe = replace(healthy.recipe, config=healthy.config | dict(config or {}))
    return write_safetensors(Checkpoint(recipe, tensors | dict(add or {})), directory)


def put(index: Any, value: Any) -> Change:
    """Give a change that sets some values."""

    def change(values: Array) -> None:
        values[index] = value

    return change


def patched(source: Path, out: Path, tensor: str, patch: Callable[[NDArray[np.uint8]], None]) -> Path:
    """Copy a GGUF file, and change the stored bytes of a tensor: (n_blocks, type_size)."""
    reader = gguf.GGUFReader(source)
    (found,) = [one for one in reader.tensors if one.name == tensor]
    start, size = int(found.data_offset), gguf.GGML_QUANT_SIZES[found.tensor_type][1]
    data = bytearray(source.read_bytes())
    blocks = np.frombuffer(data, np.uint8, int(found.n_bytes), start).reshape(-1, size)
    patch(blocks)
    out.write_bytes(data)
    return out


def edit_json(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def number(finding: wv.Finding) -> float:
    """Give a finding's value, which must be a number."""
    assert isinstance(finding.value, int | float)
    return float(finding.value)


def one_finding(path: Path, rule: str, **options: Any) -> wv.Finding:
    """Give the one finding that a check has, of any severity; it must be the rule's."""
    report = wv.check(path, **options)
    assert [finding.rule for finding in report] == [rule], report.findings
    return report.findings[0]
