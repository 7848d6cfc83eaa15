"""A build stays within its memory, whatever the model's size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BUDGET = 512 << 20
BLOCK = 16 << 20

# Run in a process of its own, whose peak is the build's alone: imports, libraries and threads included.
# Linux counts the parent's memory at the fork into ru_maxrss; VmHWM begins anew with the program.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import wvindex
wvindex.build(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
status = Path("/proc/self/status")
if status.exists():
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

Shapes = dict[str, tuple[int, ...]]


def write_model(directory: Path, config: dict[str, Any], shapes: Shapes) -> Path:
    """Write a safetensors file of BF16 tensors: real bytes, one random block over and over."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    # The high byte of each value is 0x3c: finite, near 0.01.
    block = np.random.default_rng(0).integers(0, 256, BLOCK, np.uint8)
    block[1::2] = 0x3C
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, BLOCK):
            file.write(block[: min(BLOCK, end - start)].data)
    return directory


def llama(gigabytes: float) -> tuple[dict[str, Any], Shapes]:
    """Give a Llama of about so many GB in BF16, with a matrix that alone is larger than the budget."""
    hidden, intermediate, vocab = 4096, 11008, 80_000
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": vocab,
    }
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // 4, hidden),
        "self_attn.v_proj": (hidden // 4, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    layers = 0
    while 2 * sum(int(np.prod(shape)) for shape in shapes.values()) < gigabytes * 1e9:
        shapes |= {f"model.layers.{layers}.{name}.weight": shape for name, shape in layer.items()}
        layers += 1
    return config | {"num_hidden_layers": layers}, shapes


def deepseek_v3(heads: int) -> tuple[dict[str, Any], Shapes]:
    """Give one attention layer of DeepSeek-V3's size: with 64 heads, Q and K are 0.7 GB in float32."""
    hidden, q_rank, kv_rank, nope, rope, v = 7168, 1536, 512, 128, 64, 128
    config = {
        "model_type": "deepseek_v3",
        "hidden_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "q_lora_rank": q_rank,
        "kv_lora_rank": kv_rank,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": v,
    }
    attention = {
        "q_a_proj": (q_rank, hidden),
        "q_a_layernorm": (q_rank,),
        "q_b_proj": (heads * (nope + rope), q_rank),
        "kv_a_proj_with_mqa": (kv_rank + rope, hidden),
        "kv_a_layernorm": (kv_rank,),
        "kv_b_proj": (heads * (nope + v), kv_rank),
        "o_proj": (hidden, heads * v),
    }
    return config, {f"model.layers.0.self_attn.{name}.weight": shape for name, shape in attention.items()}


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Give a directory whose gigabytes do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak_of_build(source: Path, **options: str) -> int:
    """Build in a process of its own and give its peak resident memory in bytes."""
    arguments = [source, source.with_suffix(".zarr"), json.dumps({"max_memory": BUDGET} | options)]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_model_of_2_gb_builds_in_512_mib(scratch: Path) -> None:
    source = write_model(scratch / "llama", *llama(2.0))
    assert (source / "model.safetensors").stat().st_size > 2e9
    assert peak_of_build(source) <= BUDGET


def test_an_absorbed_layer_larger_than_the_budget_builds_in_it(scratch: Path) -> None:
    source = write_model(scratch / "deepseek", *deepseek_v3(heads=64))
    assert peak_of_build(source) <= BUDGET


def test_biases_and_narrow_products_build_in_it_as_well(scratch: Path) -> None:
    config, shapes = deepseek_v3(heads=32)
    shapes["model.layers.0.self_attn.q_a_proj.bias"] = (1536,)
    shapes["model.layers.0.self_attn.kv_a_proj_with_mqa.bias"] = (576,)
    source = write_model(scratch / "deepseek", config, shapes)
    assert peak_of_build(source, absorbed_dtype="bfloat16") <= BUDGET


def test_a_cast_builds_in_its_budget(scratch: Path) -> None:
    source = write_model(scratch / "llama", *llama(1.0))
    assert peak_of_build(source, dtype="float32") <= BUDGET
