"""Which models, and which of their tokens, features.npz has (tests/golden/make_features.py)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.support.checkpoints import checkpoint
from tests.support.packed import REPO_GOLDEN

MODELS: Final = (
    "llama",
    "qwen3",
    "phi3",
    "gemma2",
    "gemma3",
    "mixtral",
    "qwen3_moe-dense",
    "deepseek_v2",
    "deepseek_v3",
)

TEXT: Final = "Bein"
TOKENS: Final = (35, 70, 261)
"""What every model's tokenizer makes of TEXT: ``B``, ``e``, ``in``."""


def features(name: str) -> dict[str, NDArray[Any]]:
    """Give transformers' arrays of a model: ``0.out``, ``0.activations``, a row a token."""
    with np.load(REPO_GOLDEN / "features.npz") as saved:
        assert checkpoint(name).sha256() == str(saved[f"{name}.sha256"])
        prefix = f"{name}."
        return {key.removeprefix(prefix): saved[key] for key in saved.files if key.startswith(prefix)}
