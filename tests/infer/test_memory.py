"""Generation on packed weights holds what the budget says of them, and never their float32 form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.arrays import MemoryArray, memory_array, write_store
from tests.support.tiny_models import LLAMA

ROOT = Path(__file__).parents[2]
HIDDEN, FFN, LAYERS, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 1024, 4096, 6, 16384, 16, 4, 64
FREQUENCIES = tuple(10_000 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2))

# Kernels and BLAS are loaded before the count begins.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from tests.support.memory import peak_memory
from wvindex.infer import Model
from wvindex.query.database import open_store

with open_store(Path(sys.argv[1])) as db:
    for count in (1, 40):
        db["warm.weight"].matmul(np.ones((count, 1024), np.float32))
    before = peak_memory()
    tokens = Model(db, max_memory=sys.argv[2]).generate(range(40), 3)
    assert len(tokens) == 3
    print(peak_memory() - before)
"""


def matrix(key: str, rows: int, columns: int) -> MemoryArray:
    """Give Q4_K blocks of 64 rows over and over: decoding more of them is of no use here."""
    part = memory_array(key, (64, columns), "Q4_K")
    raw = np.tile(part.raw, (rows // 64, 1))
    return MemoryArray(replace(part.spec, shape=(rows, columns)), raw, part.scales, part.values)


def arrays() -> Iterator[MemoryArray]:
    yield matrix("model.embed_tokens.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield memory_array(f"{stem}.{norm}.weight", (HIDDEN,), "F32")
        yield matrix(f"{stem}.self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN)
        yield matrix(f"{stem}.self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        yield matrix(f"{stem}.self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        yield matrix(f"{stem}.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM)
        yield matrix(f"{stem}.mlp.gate_proj.weight", FFN, HIDDEN)
        yield matrix(f"{stem}.mlp.up_proj.weight", FFN, HIDDEN)
        yield matrix(f"{stem}.mlp.down_proj.weight", HIDDEN, FFN)
    yield memory_array("model.norm.weight", (HIDDEN,), "F32")
    yield matrix("lm_head.weight", VOCAB, HIDDEN)
    yield matrix("warm.weight", 1024, HIDDEN)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of 125 million weights: 500 MB in float32, 70 MB in Q4_K."""
    config = replace(
        LLAMA,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        v_head_dim=HEAD_DIM,
        vocab_size=VOCAB,
        layer_types=LLAMA.layer_types[:1] * LAYERS,
        rope={
            "full_attention": replace(LLAMA.rope["full_attention"], rotary_dim=HEAD_DIM, inv_freq=FREQUENCIES)
        },
    )
    path = tmp_path_factory.mktemp("memory") / "x.zarr"
    return write_store(path, arrays(), chunk_bytes=1 << 20, workspace=32 << 20, config=config)


@pytest.mark.parametrize(("budget", "limit"), [("8MiB", 80 << 20), ("1GiB", 144 << 20)])
def test_generation_stays_within_its_budget(store: Path, budget: str, limit: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(store), budget]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= limit
