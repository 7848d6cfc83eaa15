"""DeepSeek-V3 as Hugging Face has it: every expert's matrix a tensor, and its scales another.

Headers alone: the files are as long as the model's, and sparse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 128
_SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype, shape."""


@dataclass(frozen=True)
class DeepSeek:
    """The numbers that the tensors' count depends on; by default DeepSeek-V3's, which has 90,427."""

    layers: int = 61
    experts: int = 256
    dense_layers: int = 3
    shards: int = 163
    hidden: int = 7168

    def config(self) -> dict[str, object]:
        """Give ``config.json``."""
        return {
            "model_type": "deepseek_v3",
            "hidden_size": self.hidden,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 128,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "routed_scaling_factor": 2.5,
            "first_k_dense_replace": self.dense_layers,
            "vocab_size": 129280,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [_BLOCK, _BLOCK]},
        }

    def tensors(self) -> Iterator[Tensor]:
        """Give every tensor."""
        yield "model.embed_tokens.weight", "BF16", (129280, self.hidden)
        yield "lm_head.weight", "BF16", (129280, self.hidden)
        yield "model.norm.weight", "BF16", (self.hidden,)
        for layer in range(self.layers):
            stem = f"model.layers.{layer}"
            yield from self._attention(stem)
            if layer < self.dense_layers:
                yield from self._feed_forward(f"{stem}.mlp", 18432)
                continue
            yield f"{stem}.mlp.gate.weight", "BF16", (self.experts, self.hidden)
            yield f"{stem}.mlp.gate.e_score_correction_bias", "F32", (self.experts,)
            for expert in range(self.experts):
                yield from self._feed_forward(f"{stem}.mlp.experts.{expert}", 2048)
            yield from self._feed_forward(f"{stem}.mlp.shared_experts", 2048)

    def _attention(self, stem: str) -> Iterator[Tensor]:
        for name, width in (
            ("input_layernorm", self.hidden),
            ("post_attention_layernorm", self.hidden),
            ("self_attn.q_a_layernorm", 1536),
            ("self_attn.kv_a_layernorm", 512),
        ):
            yield f"{stem}.{name}.weight", "BF16", (width,)
        for name, shape in (
            ("q_a_proj", (1536, self.hidden)),
            ("q_b_proj", (128 * 192, 1536)),
            ("kv_a_proj_with_mqa", (576, self.hidden)),
            ("kv_b_proj", (128 * 256, 512)),
            ("o_proj", (self.hidden, 128 * 128)),
        ):
            yield from _scaled(f"{stem}.self_attn.{name}.weight", shape)

    def _feed_forward(self, stem: str, inner: int) -> Iterator[Tensor]:
        yield from _scaled(f"{stem}.gate_proj.weight", (inner, self.hidden))
        yield from _scaled(f"{stem}.up_proj.weight", (inner, self.hidden))
        yield from _scaled(f"{stem}.down_proj.weight", (self.hidden, inner))


def _scaled(name: str, shape: tuple[int, int]) -> Iterator[Tensor]:
    yield name, "F8_E4M3", shape
    yield f"{name}_scale_inv", "F32", (-(-shape[0] // _BLOCK), -(-shape[1] // _BLOCK))


def write_deepseek(directory: Path, model: DeepSeek) -> int:
    """Write the headers of a checkpoint, its index and its configuration; give how many tensors it has."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(model.config()))
    tensors = list(model.tensors())
    share = -(-len(tensors) // model.shards)
    weight_map: dict[str, str] = {}
    for shard in range(model.shards):
        part = tensors[shard * share : (shard + 1) * share]
        file = f"model-{shard + 1:05}-of-{model.shards:05}.safetensors"
        _write_header(directory / file, part)
        weight_map |= dict.fromkeys((name for name, _, _ in part), file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return len(tensors)


def _write_header(path: Path, tensors: Sequence[Tensor]) -> None:
    header: dict[str, object] = {}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + math.prod(shape) * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
