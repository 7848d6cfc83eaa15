"""Hugging Face model directories, in the forms in which they are met."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from tests.support import mxfp4
from tests.support.checkpoints import SCALE_SUFFIX, Checkpoint, config_v5
from tests.support.random_weights import BFLOAT16, Array
from tests.support.tokenizer import tokenizer_config, tokenizer_json

Form = Literal["hub", "v5"]
Experts = Literal["each", "fused", "mixed"]

_EXPERT = re.compile(r"(model\.layers\.(\d+)\.)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.(weight\w*)")
_PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def write_safetensors(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    shards: int = 1,
    form: Form = "hub",
    experts: Experts = "each",
) -> Path:
    """Write a model directory and give its path.

    Parameters
    ----------
    checkpoint : Checkpoint
    directory : Path
        Made where it is missing.
    shards : int
        1 for `model.safetensors`; more for numbered files and an index.
    form : {"hub", "v5"}
        How `config.json` is spelled: `rope_theta`, `rope_scaling` and `torch_dtype` on top, or transformers
        5's `rope_parameters` and `dtype`.
    experts : {"each", "fused", "mixed"}
        One tensor per expert and projection; or transformers 5's stacks `mlp.experts.gate_up_proj`
        (n_experts, 2 * intermediate, hidden), gate rows first, and `mlp.experts.down_proj` (n_experts,
        hidden, intermediate); or the stacks in every other layer. GPT-OSS's experts are always stacked: here
        in MXFP4, or as its module has them, bfloat16 and transposed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = checkpoint.config if form == "hub" else config_v5(checkpoint.name)
    _write_json(directory / "config.json", config)
    _write_json(directory / "tokenizer.json", tokenizer_json())
    _write_json(directory / "tokenizer_config.json", tokenizer_config())
    write_weights(fuse_experts(checkpoint.tensors, experts), directory, shards=shards)
    return directory


def write_weights(tensors: Mapping[str, Array], directory: Path, *, shards: int = 1) -> None:
    """Write `model.safetensors`, or numbered files of about as many tensors each, and their index."""
    if shards == 1:
        _save(tensors, directory / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(np.array_split(list(tensors), shards), 1):
        file_name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        part = {str(key): tensors[str(key)] for key in keys}
        _save(part, directory / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def fuse_experts(tensors: Mapping[str, Array], experts: Experts) -> dict[str, Array]:
    """Stack the experts of all layers, of every other one, or of none, as transformers 5's modules do."""
    if mxfp4.pairs(tensors):
        return _unpacked(tensors, experts)
    result: dict[str, Array] = {}
    stacks: dict[str, dict[str, dict[int, Array]]] = {}
    for name, tensor in tensors.items():
        match = _EXPERT.fullmatch(name)
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None or experts == "each" or (experts == "mixed" and int(layer[1]) % 2):
            result[name] = tensor
        elif match is None:
            result[name.replace("block_sparse_moe.", "mlp.")] = tensor
        else:
            projection = _PROJECTIONS.get(match[4], match[4]) + match[5].removeprefix("weight")
            stack = stacks.setdefault(f"{match[1]}mlp.experts.", {}).setdefault(projection, {})
            stack[int(match[3])] = tensor
    for prefix, projections in stacks.items():
        result |= {prefix + name: stack for name, stack in _fused(projections).items()}
    return result


def _unpacked(tensors: Mapping[str, Array], experts: Experts) -> dict[str, Array]:
    """Unpack MXFP4 in all layers, in every other one, or in none."""
    kept: dict[str, Array] = {}
    chosen: dict[str, Array] = {}
    for name, tensor in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        stays = layer is None or experts == "each" or (experts == "mixed" and int(layer[1]) % 2)
        (kept if stays else chosen)[name] = tensor
    return kept | mxfp4.unpacked(chosen, BFLOAT16)


def _fused(projections: Mapping[str, Mapping[int, Array]]) -> dict[str, Array]:
    """Join the gate and up projections of a layer, and stack each over its experts."""
    stacks = {name: np.stack([part[i] for i in sorted(part)]) for name, part in projections.items()}
    result = {}
    for suffix in ("", SCALE_SUFFIX):
        if f"gate_proj{suffix}" in stacks:
            halves = [stacks[f"gate_proj{suffix}"], stacks[f"up_proj{suffix}"]]
            result[f"gate_up_proj{suffix}"] = np.concatenate(halves, axis=1)
            result[f"down_proj{suffix}"] = stacks[f"down_proj{suffix}"]
    return result


def _save(tensors: Mapping[str, Array], path: Path) -> None:
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
