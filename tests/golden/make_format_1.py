"""Write tests/data/format-1: small stores of format 1, and what their values are, worked out without wvindex.

    python -m tests.golden.make_format_1

The stores are kept for ever, as they are: a later wvindex must read them. Run this again only to replace
stores that were never in a release.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex
from tests.support import configs, fp8
from tests.support.arrays import MemoryArray, memory_array, write_store

DATA: Final = Path(__file__).parents[1] / "data" / "format-1"

HIDDEN, HEADS, Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 48, 2, 16, 12, 8, 4, 6
BLOCK: Final = (16, 16)
LAYER: Final = "model.layers.0."

Array = NDArray[Any]


def bfloat16(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) * 0.3).astype(ml_dtypes.bfloat16)


# DeepSeek-V3 in safetensors: FP8 with scales, bfloat16, and a layer whose latent attention is absorbed


def deepseek_config() -> dict[str, Any]:
    config = configs.deepseek_v3(
        hidden_size=HIDDEN,
        intermediate_size=40,
        first_k_dense_replace=1,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=Q_RANK,
        kv_lora_rank=KV_RANK,
        qk_nope_head_dim=NOPE,
        qk_rope_head_dim=ROPE,
        v_head_dim=VALUE,
        vocab_size=20,
        quantization_config=configs.FP8 | {"weight_block_size": list(BLOCK)},
    )
    return dict(config)


def deepseek_tensors() -> dict[str, Array]:
    rng = np.random.default_rng(20250101)
    attention, mlp = f"{LAYER}self_attn.", f"{LAYER}mlp."
    tensors = {
        "model.embed_tokens.weight": bfloat16(rng, 20, HIDDEN),
        f"{attention}q_a_proj.weight": bfloat16(rng, Q_RANK, HIDDEN),
        f"{attention}q_a_layernorm.weight": 1 + bfloat16(rng, Q_RANK),
        f"{attention}q_b_proj.weight": bfloat16(rng, HEADS * (NOPE + ROPE), Q_RANK),
        f"{attention}kv_a_proj_with_mqa.weight": bfloat16(rng, KV_RANK + ROPE, HIDDEN),
        f"{attention}kv_a_layernorm.weight": 1 + bfloat16(rng, KV_RANK),
        f"{attention}kv_b_proj.weight": bfloat16(rng, HEADS * (NOPE + VALUE), KV_RANK),
        f"{LAYER}input_layernorm.weight": 1 + bfloat16(rng, HIDDEN),
        f"{LAYER}post_attention_layernorm.weight": 1 + bfloat16(rng, HIDDEN),
        "model.norm.weight": 1 + bfloat16(rng, HIDDEN),
        "lm_head.weight": bfloat16(rng, 20, HIDDEN),
    }
    for name, shape in (
        (f"{attention}o_proj", (HIDDEN, HEADS * VALUE)),
        (f"{mlp}gate_proj", (40, HIDDEN)),
        (f"{mlp}up_proj", (40, HIDDEN)),
        (f"{mlp}down_proj", (HIDDEN, 40)),
    ):
        codes, scales = fp8.quantize(bfloat16(rng, *shape), BLOCK)
        tensors |= {f"{name}.weight": codes, f"{name}.weight_scale_inv": scales}
    return tensors


def absorbed(tensors: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """Give the dense Q, K and V, and the latent projection, in float64 (docs/design.md has the reason).

    Each head's rows are [rope | nope]; rotary rows go from interleaved pairs to halves.
    """
    attention = f"{LAYER}self_attn."
    given = {name: tensors[f"{attention}{name}.weight"].astype(np.float64) for name in (
        "q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"
    )}  # fmt: skip
    halves = [*range(0, ROPE, 2), *range(1, ROPE, 2)]
    latent, shared = given["kv_a_proj_with_mqa"][:KV_RANK], given["kv_a_proj_with_mqa"][KV_RANK:][halves]
    q = (given["q_b_proj"] * given["q_a_layernorm"]) @ given["q_a_proj"]
    kv = (given["kv_b_proj"] * given["kv_a_layernorm"]) @ latent
    q_heads = q.reshape(HEADS, NOPE + ROPE, HIDDEN)
    kv_heads = kv.reshape(HEADS, NOPE + VALUE, HIDDEN)
    return {
        f"{attention}q_proj.weight": np.concatenate(
            [np.concatenate([head[NOPE:][halves], head[:NOPE]]) for head in q_heads]
        ),
        f"{attention}k_proj.weight": np.concatenate(
            [np.concatenate([shared, head[:NOPE]]) for head in kv_heads]
        ),
        f"{attention}v_proj.weight": np.concatenate([head[NOPE:] for head in kv_heads]),
        f"{attention}latent_proj.weight": np.concatenate([given["q_a_proj"], latent]),
    }


def write_deepseek(directory: Path) -> tuple[dict[str, Array], dict[str, NDArray[np.float64]]]:
    tensors = deepseek_tensors()
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(deepseek_config()))
    save_file(tensors, directory / "model.safetensors")
    products = absorbed(tensors)
    exact = {}
    for name, values in tensors.items():
        if name.endswith("_scale_inv") or any(part in name for part in ("q_a_", "q_b_", "kv_a_", "kv_b_")):
            continue
        scales = tensors.get(f"{name}_scale_inv")
        exact[name] = values if scales is None else fp8.dequantize(values, scales, BLOCK)
    return exact, products


# Llama in GGUF: Q8_0 and Q4_K blocks, bfloat16


def write_llama(path: Path) -> dict[str, Array]:
    """Write the file, and give its decoded tensors under their standard keys."""
    rng = np.random.default_rng(20250102)
    width, heads, kv_heads, head_dim = 256, 2, 1, 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(32)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(8)
    found: dict[str, Array] = {}

    def add(name: str, key: str, kind: Type, *shape: int, heads: int | None = None) -> None:
        raw, values = encoded(rng, kind, *shape)
        writer.add_tensor(name, raw, raw_dtype=kind)
        found[key] = values if heads is None else in_halves(values, heads)

    add("token_embd.weight", "model.embed_tokens.weight", Type.BF16, 8, width)
    add("blk.0.attn_norm.weight", f"{LAYER}input_layernorm.weight", Type.F32, width)
    add("blk.0.attn_q.weight", f"{LAYER}self_attn.q_proj.weight", Type.Q8_0, 64, width, heads=heads)
    add("blk.0.attn_k.weight", f"{LAYER}self_attn.k_proj.weight", Type.Q4_K, 32, width, heads=kv_heads)
    add("blk.0.attn_v.weight", f"{LAYER}self_attn.v_proj.weight", Type.Q4_K, 32, width)
    add("blk.0.attn_output.weight", f"{LAYER}self_attn.o_proj.weight", Type.Q8_0, width, 64)
    add("blk.0.ffn_norm.weight", f"{LAYER}post_attention_layernorm.weight", Type.F32, width)
    add("blk.0.ffn_gate.weight", f"{LAYER}mlp.gate_proj.weight", Type.Q4_K, 32, width)
    add("blk.0.ffn_up.weight", f"{LAYER}mlp.up_proj.weight", Type.Q4_K, 32, width)
    add("blk.0.ffn_down.weight", f"{LAYER}mlp.down_proj.weight", Type.Q8_0, width, 32)
    add("output_norm.weight", "model.norm.weight", Type.F32, width)
    add("output.weight", "lm_head.weight", Type.F16, 8, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def encoded(rng: np.random.Generator, kind: Type, *shape: int) -> tuple[Array, Array]:
    """Make a tensor as GGUF stores it, and give what the gguf package decodes it to."""
    if kind is Type.Q4_K:  # the package decodes it and does not encode it: random blocks with sane scales
        blocks = rng.integers(0, 256, (shape[0] * shape[1] // 256, 144), np.uint8)
        blocks[:, :4] = rng.random((len(blocks), 2)).astype(np.float16).view(np.uint8)
        raw = blocks.reshape(shape[0], -1)
        return raw, gguf.dequantize(raw, kind)
    values = rng.standard_normal(shape).astype(np.float32)
    raw = gguf.quantize(values, kind)
    dtypes = {Type.F32: np.float32, Type.F16: np.float16, Type.BF16: ml_dtypes.bfloat16}
    plain = dtypes.get(kind)
    return raw, gguf.dequantize(raw, kind) if plain is None else raw.view(plain).reshape(shape)


def in_halves(values: Array, heads: int) -> Array:
    """Undo llama.cpp's permutation of rotary rows: pairs (0, 1), (2, 3), ... of each head become halves."""
    rows, width = values.shape
    return values.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


# Arrays in several chunks, the last of which is short


def arrays() -> list[MemoryArray]:
    return [
        memory_array(f"{LAYER}padded", (11, 64), "F32"),
        memory_array("packed", (11, 64), "Q8_0"),
        memory_array("stack", (2, 7, 256), "Q4_K"),
        memory_array("scaled", (2, 11, 12), "FP8"),
        memory_array("Odd/NAME \N{LATIN SMALL LETTER E WITH ACUTE}", (3, 2, 2), "I32"),
        memory_array("bool", (7, 3), "BOOL"),
        memory_array("scalar", (), "F16"),
        memory_array("empty", (0, 4), "BF16"),
    ]


def digest(values: Array) -> str:
    """Give the SHA-256 of an array's values as they are stored, little-endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def facts(values: Array) -> dict[str, Any]:
    return {"shape": list(values.shape), "dtype": values.dtype.name, "sha256": digest(values)}


def main() -> None:
    """Write the stores, and expected.json and expected.npz beside them."""
    for name in ("llama", "deepseek", "chunks"):
        shutil.rmtree(DATA / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        llama = write_llama(Path(scratch, "llama.gguf"))
        exact, products = write_deepseek(Path(scratch, "deepseek"))
        for source in (Path(scratch, "llama.gguf"), Path(scratch, "deepseek", "model.safetensors")):
            os.utime(source, ns=(0, 0))  # the catalog holds it
        wvindex.build(Path(scratch, "llama.gguf"), DATA / "llama")
        wvindex.build(Path(scratch, "deepseek"), DATA / "deepseek")
        write_store(DATA / "chunks", arrays(), chunk_bytes=300)
    expected = {
        "llama": {key: facts(values) for key, values in llama.items()},
        "deepseek": {key: facts(values) for key, values in exact.items()},
        "chunks": {array.spec.key: facts(array.values) for array in arrays()},
    }
    (DATA / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    with zipfile.ZipFile(DATA / "expected.npz", "w") as saved:
        for key, values in products.items():
            with saved.open(zipfile.ZipInfo(f"{key}.npy"), "w") as file:  # no time of day: the same bytes
                np.lib.format.write_array(file, values)


if __name__ == "__main__":
    main()
