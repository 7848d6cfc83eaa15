"""transformers' side of the inference benchmark: a worker over the same GGUF, decoded to float32.

Run by an interpreter that has torch and transformers, and need not have wvindex.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.memory import forget_peak, peak_memory
from benchmarks.worker import serve


def main(path: Path, n_tokens: int) -> None:
    """Load the model, then answer as wvindex's side does."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    side = Side(path, n_tokens)
    commands = {name: getattr(side, name) for name in ("load", "prefill", "token", "logits")}
    serve(commands | {"peak": peak_memory, "forget": forget_peak})


class Side:
    """A model, its cache, and what is asked of them."""

    def __init__(self, path: Path, n_tokens: int) -> None:
        self._path = path
        self._model: Any = _load(path)
        self._tokens = torch.tensor(np.arange(n_tokens)[None] * 7919 % self._model.config.vocab_size)
        self._cache: Any = None

    def load(self) -> int:
        """Load the model anew; give how many parameters it has."""
        self._model = self._cache = None  # two at once would take twice the memory
        self._model = _load(self._path)
        return sum(parameter.numel() for parameter in self._model.parameters())

    def prefill(self) -> int:
        """Run the tokens into an empty cache."""
        self._cache = None
        return self._step(self._tokens)

    def token(self) -> int:
        """Run one token more."""
        return self._step(self._tokens[:, :1])

    def logits(self) -> list[float]:
        """Give the last token's."""
        found: list[float] = self._model(self._tokens, logits_to_keep=1).logits[0, -1].tolist()
        return found

    def _step(self, ids: Any) -> int:
        output = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        return int(output.logits[0, -1].argmax())


def _load(path: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
