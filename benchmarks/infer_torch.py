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
    model: Any = _load(path)
    tokens = torch.tensor(np.arange(n_tokens)[None] * 7919 % model.config.vocab_size)
    cache: Any = None

    def load() -> int:
        nonlocal model, cache
        model = cache = None  # two at once would take twice the memory
        model = _load(path)
        return sum(parameter.numel() for parameter in model.parameters())

    def step(ids: Any) -> Any:
        nonlocal cache
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        return output.logits[0, -1]

    def prefill() -> int:
        nonlocal cache
        cache = None
        return int(step(tokens).argmax())

    def token() -> int:
        return int(step(tokens[:, :1]).argmax())

    def logits() -> list[float]:
        found: list[float] = model(tokens, logits_to_keep=1).logits[0, -1].tolist()
        return found

    serve(
        {
            "load": load,
            "prefill": prefill,
            "token": token,
            "logits": logits,
            "peak": peak_memory,
            "forget": forget_peak,
        }
    )


def _load(path: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
