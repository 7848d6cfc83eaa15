"""Synthetic checkpoints of any size, shaped like real ones, streamed to the disk; a seed decides all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import gguf
import numpy as np

from benchmarks.blocks import BlockPool

Value = int | float | str | bool | list[str]


@dataclass(frozen=True)
class TensorShape:
    """A tensor to be written; outermost dimension first."""

    name: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def nbytes(self) -> int:
        """Encoded bytes."""
        block_size, type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.type_name]]
        return math.prod(self.shape) // block_size * type_size


@dataclass(frozen=True)
class Llama:
    """The numbers of a Llama; by default of Llama 3.2 1B's shape, the head tied to the embedding."""

    hidden: int = 2048
    intermediate: int = 8192
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    vocab: int = 128_256

    def metadata(self) -> dict[str, Value]:
        """Give GGUF's keys."""
        return {
            "llama.block_count": self.layers,
            "llama.context_length": 8192,
            "llama.embedding_length": self.hidden,
            "llama.feed_forward_length": self.intermediate,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.kv_heads,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.freq_base": 500_000.0,
            "llama.rope.dimension_count": self.hidden // self.heads,
            "llama.vocab_size": self.vocab,
        }

    def tensors(self, type_name: str) -> list[TensorShape]:
        """Give every tensor; norms are float32."""
        kv = self.hidden // self.heads * self.kv_heads
        matrices = {
            "attn_q": (self.hidden, self.hidden),
            "attn_k": (kv, self.hidden),
            "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, self.hidden),
            "ffn_gate": (self.intermediate, self.hidden),
            "ffn_up": (self.intermediate, self.hidden),
            "ffn_down": (self.hidden, self.intermediate),
        }
        found = [TensorShape("token_embd.weight", (self.vocab, self.hidden), type_name)]
        for layer in range(self.layers):
            stem = f"blk.{layer}"
            found += [TensorShape(f"{stem}.{n}.weight", shape, type_name) for n, shape in matrices.items()]
            found += [TensorShape(f"{stem}.{n}_norm.weight", (self.hidden,), "F32") for n in ("attn", "ffn")]
        return [*found, TensorShape("output_norm.weight", (self.hidden,), "F32")]


TINY_LLAMA = Llama(hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2, vocab=512)


def write_llama(path: Path, llama: Llama, type_name: str = "Q4_K", seed: int = 0) -> Path:
    """Write a Llama as GGUF."""
    return write_gguf(path, "llama", llama.metadata(), llama.tensors(type_name), seed)


def llama_of_size(nbytes: int) -> Llama:
    """Give a Llama of about so many bytes in Q4_K: of 8B's widths, or narrow ones below 64 MB."""
    wide = nbytes >= 64_000_000
    hidden, intermediate, vocab = (4096, 14336, 32_000) if wide else (512, 1024, 1024)
    one = Llama(hidden, intermediate, 1, 32 if wide else 8, 8 if wide else 4, vocab)
    whole = sum(tensor.nbytes for tensor in one.tensors("Q4_K"))
    layer = sum(tensor.nbytes for tensor in one.tensors("Q4_K") if tensor.name.startswith("blk."))
    layers = max(1, 1 + round((nbytes - whole) / layer))
    return Llama(hidden, intermediate, layers, one.heads, one.kv_heads, vocab)


def write_vocabulary(path: Path, n_tokens: int) -> Path:
    """Write a GGUF with a byte-level vocabulary of so many tokens, nearly as many merges; one layer."""
    alphabet = _byte_alphabet()
    pairs = [(left, right) for left in alphabet for right in alphabet]
    triples = ((left + right, last) for left, right in pairs for last in alphabet)
    joined = list(islice(chain(pairs, triples), n_tokens - len(alphabet)))
    tokens = alphabet + [left + right for left, right in joined]
    merges = [f"{left} {right}" for left, right in joined]
    llama = Llama(hidden=256, intermediate=512, layers=1, heads=4, kv_heads=2, vocab=n_tokens)
    tokenizer: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return write_gguf(path, "llama", llama.metadata() | tokenizer, llama.tensors("Q4_0"), seed=0)


def _byte_alphabet() -> list[str]:
    """Give GPT-2's 256 characters for bytes: printable ones stand for themselves, others from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = count(256)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclass(frozen=True)
class DeepSeek:
    """DeepSeek-V3's 61 layers and 256 experts with everything else divided; ranks and heads fit Q4_0."""

    hidden: int = 512
    moe_intermediate: int = 64
    layers: int = 61
    dense_layers: int = 3
    experts: int = 256
    heads: int = 16
    q_rank: int = 128
    kv_rank: int = 64
    nope: int = 32
    rope: int = 32
    value: int = 32
    vocab: int = 4096

    def metadata(self) -> dict[str, Value]:
        """Give GGUF's keys, in the form with split `attn_k_b` and `attn_v_b`."""
        keys: dict[str, Value] = {
            "block_count": self.layers,
            "context_length": 4096,
            "embedding_length": self.hidden,
            "feed_forward_length": 4 * self.hidden,
            "attention.head_count": self.heads,
            "attention.head_count_kv": 1,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "attention.q_lora_rank": self.q_rank,
            "attention.kv_lora_rank": self.kv_rank,
            "attention.key_length": self.kv_rank + self.rope,
            "attention.value_length": self.kv_rank,
            "attention.key_length_mla": self.nope + self.rope,
            "attention.value_length_mla": self.value,
            "rope.dimension_count": self.rope,
            "rope.freq_base": 10_000.0,
            "vocab_size": self.vocab,
            "leading_dense_block_count": self.dense_layers,
            "expert_feed_forward_length": self.moe_intermediate,
            "expert_count": self.experts,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "expert_group_count": 8,
            "expert_group_used_count": 4,
        }
        return {f"deepseek2.{key}": value for key, value in keys.items()}

    def tensors(self, type_name: str) -> list[TensorShape]:
        """Give every tensor; norms and routers are float32."""
        found = [
            TensorShape("token_embd.weight", (self.vocab, self.hidden), type_name),
            TensorShape("output.weight", (self.vocab, self.hidden), type_name),
            TensorShape("output_norm.weight", (self.hidden,), "F32"),
        ]
        for layer in range(self.layers):
            parts = self._attention() | (self._dense() if layer < self.dense_layers else self._routed())
            for name, shape in parts.items():
                full = f"blk.{layer}.{name}" if name.endswith(".bias") else f"blk.{layer}.{name}.weight"
                plain = len(shape) == 1 or name == "ffn_gate_inp"
                found.append(TensorShape(full, shape, "F32" if plain else type_name))
        return found

    def _attention(self) -> dict[str, tuple[int, ...]]:
        return {
            "attn_norm": (self.hidden,),
            "ffn_norm": (self.hidden,),
            "attn_q_a": (self.q_rank, self.hidden),
            "attn_q_a_norm": (self.q_rank,),
            "attn_q_b": (self.heads * (self.nope + self.rope), self.q_rank),
            "attn_kv_a_mqa": (self.kv_rank + self.rope, self.hidden),
            "attn_kv_a_norm": (self.kv_rank,),
            "attn_k_b": (self.heads, self.kv_rank, self.nope),
            "attn_v_b": (self.heads, self.value, self.kv_rank),
            "attn_output": (self.hidden, self.heads * self.value),
        }

    def _dense(self) -> dict[str, tuple[int, ...]]:
        wide = 4 * self.hidden
        return {
            "ffn_gate": (wide, self.hidden),
            "ffn_up": (wide, self.hidden),
            "ffn_down": (self.hidden, wide),
        }

    def _routed(self) -> dict[str, tuple[int, ...]]:
        rows, columns = (self.moe_intermediate, self.hidden), (self.hidden, self.moe_intermediate)
        shapes = {"ffn_gate": rows, "ffn_up": rows, "ffn_down": columns}
        stacks = {f"{name}_exps": (self.experts, *shape) for name, shape in shapes.items()}
        shared = {f"{name}_shexp": shape for name, shape in shapes.items()}
        router = {"ffn_gate_inp": (self.experts, self.hidden), "exp_probs_b.bias": (self.experts,)}
        return stacks | shared | router


def v3_layer(quick: bool, vocab: int = 512) -> DeepSeek:
    """Give one layer whose attention has DeepSeek-V3's size, beside few and narrow experts."""
    if quick:
        return DeepSeek(
            hidden=256, moe_intermediate=32, layers=1, dense_layers=0, experts=8, heads=4, vocab=512
        )
    return DeepSeek(
        hidden=7168,
        moe_intermediate=256,
        layers=1,
        dense_layers=0,
        experts=8,
        heads=128,
        q_rank=1536,
        kv_rank=512,
        nope=128,
        rope=64,
        value=128,
        vocab=vocab,
    )


def write_deepseek(path: Path, deepseek: DeepSeek, type_name: str = "Q4_0", seed: int = 0) -> Path:
    """Write a DeepSeek-V3-shaped model as GGUF."""
    return write_gguf(path, "deepseek2", deepseek.metadata(), deepseek.tensors(type_name), seed)


def write_gguf(
    path: Path, architecture: str, metadata: Mapping[str, Value], tensors: Iterable[TensorShape], seed: int
) -> Path:
    """Write a GGUF file whose header the gguf package makes, and whose data is streamed."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    tensors = list(tensors)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    _stream(writer, tensors, seed)
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _stream(writer: gguf.GGUFWriter, tensors: Iterable[TensorShape], seed: int) -> None:
    if writer.fout is None:
        raise ValueError("the header must be written before the data")
    (file,) = writer.fout
    writer.write_padding(file, file.tell())
    pools: dict[str, BlockPool] = {}
    for tensor in tensors:
        if len(tensor.shape) == 1:
            file.write(np.ones(tensor.shape, np.float32).data)  # norms and biases
        else:
            if tensor.type_name not in pools:
                pools[tensor.type_name] = BlockPool(tensor.type_name, seed)
            for piece in pools[tensor.type_name].pieces(tensor.nbytes):
                file.write(piece.data)
        writer.write_padding(file, tensor.nbytes)
