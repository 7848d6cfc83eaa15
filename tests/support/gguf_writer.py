"""GGUF files as llama.cpp's convert_hf_to_gguf.py writes them, made with the `gguf` package.

Independent of wvindex: names come from the package's TensorNameMap, the rest from what llama.cpp does;
tests/golden/test_gguf_writer.py holds it against files that llama.cpp wrote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from tests.support import mxfp4
from tests.support.checkpoints import Checkpoint
from tests.support.gguf_metadata import ARCHITECTURES, MLAForm, Value, metadata, rope_parameters
from tests.support.layouts import head_dim, is_gemma
from tests.support.tokenizer import CONTROL_TOKENS, MERGES, vocabulary

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"(model\.layers\.\d+\.)(mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_GPT_OSS = re.compile(r"(model\.layers\.\d+\.mlp\.experts\.)(gate_up|down)_proj(_bias)?")
_PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    *,
    dtype: str = "F32",
    mla: MLAForm = "split",
    shards: int = 1,
) -> list[Path]:
    """Write a GGUF file, or several, and give their paths in order.

    Parameters
    ----------
    checkpoint : Checkpoint
    path : Path
        The file; of shards, `X.gguf` becomes `X-00001-of-00002.gguf` and so on.
    dtype : str
        Type of the matrices: ``F32``, ``F16``, ``BF16``, or a block type that the `gguf` package quantizes
        to (``Q8_0``, ``Q4_0``, ...). Norms, vectors and the router stay F32; rows that are no whole number
        of blocks become F16. Experts in MXFP4 stay what they are.
    mla : {"split", "kv_b"}
        DeepSeek's up-projections: `attn_k_b` and `attn_v_b`, or the older `attn_kv_b`.
    shards : int
    """
    tensors = gguf_tensors(checkpoint.config, checkpoint.decoded(), mla)
    writer = gguf.GGUFWriter(
        path,
        ARCHITECTURES[checkpoint.config["model_type"]],
        split_max_tensors=0 if shards == 1 else -(-len(tensors) // shards),
    )
    _write_general(writer, checkpoint.name, dtype)
    for key, value in metadata(checkpoint.config, mla).items():
        _write_value(writer, key, value)
    _write_tokenizer(writer, checkpoint.config)
    packed = dict(_packed_experts(checkpoint))
    for name, tensor in tensors.items():
        stored = Type.MXFP4 if name in packed else stored_type(name, tensor, dtype)
        raw = packed[name] if name in packed else gguf.quants.quantize(tensor, stored)
        writer.add_tensor(name, raw, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if shards == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:05d}-of-{shards:05d}.gguf") for i in range(1, shards + 1)]


def gguf_tensors(
    config: Mapping[str, Any], tensors: Mapping[str, Floats], mla: MLAForm = "split"
) -> dict[str, Floats]:
    """Give the tensors of a GGUF file for a checkpoint's, all in float32, by their GGUF names."""
    architecture = ARCHITECTURES[config["model_type"]]
    architecture = {"deepseek32": "glm-dsa"}.get(architecture, architecture)  # which the package lacks
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    name_map = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    result = dict(_rope_tensors(config))
    experts = _fuse_mistral4(config, _divide_gpt_oss(config, _stack_experts(_without_mtp(config, tensors))))
    for name, tensor in _split_kv_b(config, experts, mla):
        source = name.replace("e_score_correction_bias", "e_score_correction.bias")
        source = f"{source}.weight" if name.endswith(".sinks") else source
        target = name_map.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise KeyError(f"{name} has no GGUF name in {architecture}")
        result[target] = _converted(config, name, tensor)
    return result


def stored_type(name: str, tensor: Floats, dtype: str) -> Type:
    """Give the type that llama.cpp's converter stores a tensor in."""
    if tensor.ndim == 1 or "norm" in name or name.endswith("ffn_gate_inp.weight"):
        return Type.F32
    wanted = Type[dtype]
    block_size, _ = gguf.GGML_QUANT_SIZES[wanted]
    return Type.F16 if tensor.shape[-1] % block_size else wanted


def _without_mtp(config: Mapping[str, Any], tensors: Mapping[str, Floats]) -> dict[str, Floats]:
    """Leave out the multi-token-prediction layers, as llama.cpp does."""
    count = config["num_hidden_layers"]
    layers = {name: _LAYER.match(name) for name in tensors}
    return {name: tensors[name] for name, match in layers.items() if match is None or int(match[1]) < count}


def _stack_experts(tensors: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    stacks: dict[str, dict[int, Floats]] = {}
    for name, tensor in tensors.items():
        if match := _EXPERT.fullmatch(name):
            projection = _PROJECTIONS.get(match[4], match[4])
            stacks.setdefault(f"{match[1]}mlp.experts.{projection}.weight", {})[int(match[3])] = tensor
        else:
            yield name, tensor
    for name, stack in stacks.items():
        yield name, np.stack([stack[index] for index in range(len(stack))])


def _divide_gpt_oss(
    config: Mapping[str, Any], tensors: Iterable[tuple[str, Floats]]
) -> Iterator[tuple[str, Floats]]:
    """Part GPT-OSS's gate and up, whose columns take turns, and turn its (experts, in, out)."""
    for name, tensor in tensors:
        match = _GPT_OSS.fullmatch(name)
        if config["model_type"] != "gpt_oss" or match is None:
            yield name, tensor
            continue
        kind = "bias" if match[3] else "weight"
        turned = tensor if kind == "bias" else tensor.swapaxes(1, 2)
        parts = {"down": turned} if match[2] == "down" else {"gate": turned[:, ::2], "up": turned[:, 1::2]}
        for part, values in parts.items():
            yield f"{match[1]}{part}_proj.{kind}", values


def _packed_experts(checkpoint: Checkpoint) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Give MXFP4's rows as GGML's blocks, by their GGUF names: no value is quantized anew."""
    for stem, (blocks, exponents) in mxfp4.pairs(checkpoint.tensors).items():
        match = _GPT_OSS.fullmatch(stem)
        assert match is not None
        rows = mxfp4.ggml_blocks(blocks, exponents)
        layer = match[1].split(".")[2]
        parts = {"down": rows} if match[2] == "down" else {"gate": rows[:, ::2], "up": rows[:, 1::2]}
        for part, values in parts.items():
            yield f"blk.{layer}.ffn_{part}_exps.weight", np.ascontiguousarray(values)


def _fuse_mistral4(
    config: Mapping[str, Any], tensors: Iterable[tuple[str, Floats]]
) -> Iterator[tuple[str, Floats]]:
    """Keep Mistral 4's gate and up in one tensor, as its checkpoints have them."""
    gates: dict[str, Floats] = {}
    for name, tensor in tensors:
        if config["model_type"] != "mistral4" or ".mlp.experts." not in name or ".down_proj" in name:
            yield name, tensor
        elif ".gate_proj" in name:
            gates[name.replace("gate_proj", "up_proj")] = tensor
        else:
            fused = np.concatenate([gates.pop(name), tensor], axis=1)
            yield name.replace("up_proj", "gate_up_proj"), fused


def _split_kv_b(
    config: Mapping[str, Any], tensors: Iterator[tuple[str, Floats]], mla: MLAForm
) -> Iterator[tuple[str, Floats]]:
    keeps = mla == "kv_b" or config["model_type"] == "minicpm3"
    for name, tensor in tensors:
        if keeps or not name.endswith("kv_b_proj.weight"):
            yield name, tensor
            continue
        nope = config["qk_nope_head_dim"]
        heads = tensor.reshape(config["num_attention_heads"], nope + config["v_head_dim"], -1)
        # (heads, nope, kv_lora_rank) -> (heads, kv_lora_rank, nope)
        yield name.replace("kv_b_proj", "k_b_proj"), heads[:, :nope].swapaxes(1, 2)
        yield name.replace("kv_b_proj", "v_b_proj"), heads[:, nope:]


def _converted(config: Mapping[str, Any], name: str, tensor: Floats) -> Floats:
    """Apply llama.cpp's changes of value: Gemma's 1 + w, and the row order of Llama's Q and K."""
    if is_gemma(config) and name.endswith("norm.weight"):
        return tensor + np.float32(1.0)
    if ARCHITECTURES[config["model_type"]] == "llama":
        for projection, field in (("q_proj.", "num_attention_heads"), ("k_proj.", "num_key_value_heads")):
            if projection in name:
                return _interleave_halves(tensor, config[field])
    return np.ascontiguousarray(tensor)


def _interleave_halves(rows: Floats, heads: int) -> Floats:
    """Reorder each head's rows from half-split rotation, (i, i + d/2), to interleaved, (2i, 2i + 1)."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])  # (heads, 2, head_dim / 2, ...)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _rope_tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, Floats]]:
    rope = rope_parameters(config)
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(rope, head_dim(config))
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", np.asarray(rope["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.asarray(rope["short_factor"], np.float32)


def _llama3_factors(rope: Mapping[str, Any], width: int) -> Floats:
    """Give what each rotary frequency is divided by (Llama 3.1's `apply_scaling`)."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies = np.float32(1.0) / np.float32(rope["rope_theta"]) ** exponents
    rotations = rope["original_max_position_embeddings"] * frequencies / np.float32(2 * math.pi)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    factors: Floats = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors


def _write_general(writer: gguf.GGUFWriter, name: str, dtype: str) -> None:
    file_type = "ALL_F32" if dtype == "F32" else f"MOSTLY_{dtype}"
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_value(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _write_tokenizer(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    tokens = vocabulary()
    control = [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([*control, *[gguf.TokenType.NORMAL] * (len(tokens) - len(control))])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
