"""Test checkpoints: weights remade from a seed, and the logits that transformers gives for them.

`names()` lists them, `checkpoint(name)` makes one, `golden(name)` reads what transformers computed;
`write_safetensors` and `write_gguf` (in the modules beside this one) put one on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support import fp8, mxfp4
from tests.support.layouts import Fill, layout
from tests.support.random_weights import Array, bell, flat, raw_uint16
from tests.support.recipes import RECIPES, Recipe

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
N_TOKENS = 80
SCALE_SUFFIX = "_scale_inv"


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory: the hub's config, and its tensors by the names that the hub gives them.

    Attributes
    ----------
    recipe : Recipe
    tensors : mapping of str to array
        bfloat16; float32 for the router's correction bias; in FP8 models float8_e4m3fn codes `X.weight`
        with float32 scales `X.weight_scale_inv`; in MXFP4 ones uint8 `X_blocks` and `X_scales`.
    """

    recipe: Recipe
    tensors: Mapping[str, Array]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.recipe.config)

    def decoded(self) -> dict[str, npt.NDArray[np.float32]]:
        """Give every weight as float32, FP8 codes multiplied by their scales, MXFP4 (experts, in, out)."""
        values = {}
        for name, tensor in mxfp4.unpacked(self.tensors, np.float32).items():
            scales = self.tensors.get(name + SCALE_SUFFIX)
            if scales is not None:
                values[name] = fp8.dequantize(tensor, scales)
            elif not name.endswith(SCALE_SUFFIX):
                values[name] = tensor.astype(np.float32)
        return values

    def sha256(self) -> str:
        """Give a digest of every name, dtype, shape and value."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor).view(np.uint8).tobytes())
        return digest.hexdigest()


def names(*, gguf: bool | None = None) -> list[str]:
    """Give the names of all recipes, or of those that do (or do not) have a GGUF form."""
    return [name for name, recipe in RECIPES.items() if gguf is None or recipe.gguf == gguf]


@cache
def checkpoint(name: str) -> Checkpoint:
    """Make the weights of the recipe called `name`."""
    return made(RECIPES[name])


def made(recipe: Recipe) -> Checkpoint:
    """Make the weights of a recipe."""
    tensors = {key: _filled(recipe.seed, key, fill) for key, fill in layout(recipe.config).items()}
    if recipe.config.get("quantization_config", {}).get("quant_method") == "fp8":
        tensors = _quantized(tensors)
    return Checkpoint(recipe, tensors)


def tokens(name: str) -> npt.NDArray[np.int64]:
    """Give the recipe's prompt: (80,) token ids."""
    recipe = RECIPES[name]
    return raw_uint16(recipe.seed, "tokens", N_TOKENS).astype(np.int64) % int(recipe.config["vocab_size"])


def golden(name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Give the token ids (80,) and transformers' float32 logits (80, vocab_size) for them."""
    with np.load(golden_path(name)) as saved:
        return saved["tokens"], saved["logits"]


def golden_path(name: str) -> Path:
    """Give the file of a recipe's golden logits."""
    return GOLDEN_DIR / "logits" / f"{name}.npz"


def config_v5(name: str) -> dict[str, Any]:
    """Give `config.json` as transformers 5 saves it, made by transformers itself (see make_golden.py)."""
    loaded: dict[str, Any] = json.loads(config_v5_path(name).read_text())
    return loaded


def config_v5_path(name: str) -> Path:
    """Give the file of a recipe's config in transformers 5's form."""
    return GOLDEN_DIR / "configs" / f"{name}.json"


def _filled(seed: int, name: str, fill: Fill) -> Array:
    if fill.bytes_within is not None:
        low, high = fill.bytes_within
        found = raw_uint16(seed, name, math.prod(fill.shape)) % (high - low + 1) + low
        return found.astype(np.uint8).reshape(fill.shape)
    if fill.span is not None:
        return flat(seed, name, fill.shape, *fill.span)
    values = bell(seed, name, fill.shape, fill.std)
    return values.astype(np.float32) if fill.float32 else values


def _quantized(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Turn the projections to FP8; embeddings, norms, router and head stay as they are, as in DeepSeek-V3."""
    result: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight") or name.endswith("_proj_with_mqa.weight"):
            result[name], result[name + SCALE_SUFFIX] = fp8.quantize(tensor)
        else:
            result[name] = tensor
    return result
