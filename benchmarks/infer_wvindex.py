"""wvindex's side of the inference benchmark: a worker over a store."""

from __future__ import annotations

import sys

import numpy as np

import wvindex as wv
from benchmarks.memory import peak_memory
from benchmarks.worker import serve
from wvindex.infer import Model


def main(path: str, source: str, n_tokens: int) -> None:
    """Answer ``prefill``, ``token``, ``logits``, ``peak`` (of the whole process) and ``load``."""
    db = wv.open(path)
    model = Model(db)
    tokens = np.arange(n_tokens) * 7919 % (db.config.vocab_size or 1)
    cache = model.new_cache()

    def prefill() -> int:
        nonlocal cache
        cache = model.new_cache()
        return int(model.forward(tokens, cache=cache, last_only=True).logits[0].argmax())

    def token() -> int:
        return int(model.forward(tokens[:1], cache=cache, last_only=True).logits[0].argmax())

    def logits() -> list[float]:
        found: list[float] = model.forward(tokens, last_only=True).logits[0].tolist()
        return found

    def load() -> int:
        with wv.open(source) as checkpoint:
            tensors = [tensor.read(dtype="float32") for tensor in checkpoint.values()]
        return sum(tensor.size for tensor in tensors)

    serve({"prefill": prefill, "token": token, "logits": logits, "peak": peak_memory, "load": load})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
