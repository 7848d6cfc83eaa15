"""Every tensor of every family finds the rows that it holds, whichever tool named it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint, names
from tests.support.memory_source import MemorySource
from tests.support.safetensors_writer import fuse_experts
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import is_standard
from wvindex.arch.naming import Place, Placement, place
from wvindex.arch.registry import identify
from wvindex.errors import MetadataError
from wvindex.formats.encodings import ENCODINGS, F32, Encoding
from wvindex.sources.base import TensorInfo
from wvindex.sources.detect import open_source

LAYER = "model.layers.2."


def model(name: str) -> tuple[Family, ModelConfig]:
    family, config = identify(MemorySource({}, checkpoint(name).config))
    assert family is not None
    return family, config


def placed(
    recipe: str,
    name: str,
    shape: tuple[int, ...] = (8, 8),
    source_format: str = "safetensors",
    encoding: Encoding = F32,
) -> Place:
    return place(TensorInfo(name, shape, encoding, Path("f"), 0, 0), *model(recipe), source_format)


def only(found: Place) -> Placement:
    [placement] = found.placements
    return placement


@pytest.mark.parametrize("recipe", names())
@pytest.mark.parametrize("experts", ["each", "fused"])
def test_every_tensor_of_a_hub_checkpoint_has_a_standard_key(recipe: str, experts: str) -> None:
    tensors = fuse_experts(checkpoint(recipe).tensors, "each" if experts == "each" else "fused")
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        if name.endswith("_scales"):
            continue
        shape = (*tensor.shape[:2], 32 * tensor.shape[2]) if name.endswith("_blocks") else tensor.shape
        found = placed(recipe, name, shape, encoding=ENCODINGS["MXFP4"] if len(shape) < tensor.ndim else F32)
        assert found.placements, name
        assert all(is_standard(placement.key) for placement in found.placements), name


@pytest.mark.parametrize("recipe", names(gguf=True))
def test_every_tensor_of_a_gguf_file_has_a_standard_key_or_is_rotary(recipe: str, stores: Stores) -> None:
    with open_source(stores.gguf(recipe)) as source:
        family, config = identify(source)
        for info in source.tensors():
            found = place(info, family, config, "gguf")
            if info.name.startswith("rope_"):
                assert found.use == "config"
            else:
                assert found.placements, info.name
                assert all(is_standard(placement.key) for placement in found.placements), info.name


@pytest.mark.parametrize(
    ("recipe", "name", "placement"),
    [
        ("llama", "model.embed_tokens.weight", Placement("model.embed_tokens.weight")),
        ("llama", "lm_head.weight", Placement("lm_head.weight")),
        ("llama", f"{LAYER}self_attn.q_proj.bias", Placement(f"{LAYER}self_attn.q_proj.bias")),
        ("mixtral", f"{LAYER}block_sparse_moe.gate.weight", Placement(f"{LAYER}mlp.gate.weight")),
        (
            "mixtral",
            f"{LAYER}block_sparse_moe.experts.3.w1.weight",
            Placement(f"{LAYER}mlp.experts.gate_proj.weight", expert=3),
        ),
        (
            "mixtral",
            f"{LAYER}block_sparse_moe.experts.0.w2.weight",
            Placement(f"{LAYER}mlp.experts.down_proj.weight", expert=0),
        ),
        (
            "mixtral",
            f"{LAYER}block_sparse_moe.experts.1.w3.weight",
            Placement(f"{LAYER}mlp.experts.up_proj.weight", expert=1),
        ),
        (
            "qwen3_moe",
            f"{LAYER}mlp.experts.12.up_proj.weight",
            Placement(f"{LAYER}mlp.experts.up_proj.weight", expert=12),
        ),
        ("gemma2", f"{LAYER}input_layernorm.weight", Placement(f"{LAYER}input_layernorm.weight")),
        ("gemma3", "language_model.model.norm.weight", Placement("model.norm.weight")),
        ("gemma3", "model.language_model.norm.weight", Placement("model.norm.weight")),
        ("gemma3", "language_model.lm_head.weight", Placement("lm_head.weight")),
        (
            "gemma3",
            "language_model.model.layers.2.self_attn.q_norm.weight",
            Placement(f"{LAYER}self_attn.q_norm.weight"),
        ),
    ],
)
def test_hub_names(recipe: str, name: str, placement: Placement) -> None:
    assert only(placed(recipe, name)) == placement


@pytest.mark.parametrize(
    ("recipe", "name", "placement"),
    [
        ("llama", "blk.2.attn_q.weight", Placement(f"{LAYER}self_attn.q_proj.weight", permuted_heads=4)),
        ("llama", "blk.2.attn_k.weight", Placement(f"{LAYER}self_attn.k_proj.weight", permuted_heads=2)),
        ("llama", "blk.2.attn_k.bias", Placement(f"{LAYER}self_attn.k_proj.bias", permuted_heads=2)),
        ("llama", "blk.2.attn_v.weight", Placement(f"{LAYER}self_attn.v_proj.weight")),
        ("llama", "blk.2.attn_norm.weight", Placement(f"{LAYER}input_layernorm.weight")),
        ("qwen2", "blk.2.attn_q.weight", Placement(f"{LAYER}self_attn.q_proj.weight")),
        ("gemma2", "blk.2.attn_norm.weight", Placement(f"{LAYER}input_layernorm.weight", subtract=1.0)),
        ("gemma2", "output_norm.weight", Placement("model.norm.weight", subtract=1.0)),
        ("gemma2", "blk.2.attn_q.weight", Placement(f"{LAYER}self_attn.q_proj.weight")),
        ("gemma3", "blk.2.attn_q_norm.weight", Placement(f"{LAYER}self_attn.q_norm.weight", subtract=1.0)),
        ("mixtral", "blk.2.ffn_gate.3.weight", Placement(f"{LAYER}mlp.experts.gate_proj.weight", expert=3)),
        ("mixtral", "blk.2.ffn_gate_exps.weight", Placement(f"{LAYER}mlp.experts.gate_proj.weight")),
        ("mixtral", "blk.2.attn_q.weight", Placement(f"{LAYER}self_attn.q_proj.weight", permuted_heads=4)),
    ],
)
def test_gguf_names(recipe: str, name: str, placement: Placement) -> None:
    assert only(placed(recipe, name, source_format="gguf")) == placement


@pytest.mark.parametrize(
    ("name", "source_format"),
    [(f"{LAYER}self_attn.qkv_proj.weight", "safetensors"), ("blk.2.attn_qkv.weight", "gguf")],
)
def test_phi3s_qkv_is_three_arrays(name: str, source_format: str) -> None:
    found = placed("phi3", name, (128 + 2 * 64, 128), source_format)
    assert [(p.key.removeprefix(LAYER), p.rows) for p in found.placements] == [
        ("self_attn.q_proj.weight", (0, 128)),
        ("self_attn.k_proj.weight", (128, 192)),
        ("self_attn.v_proj.weight", (192, 256)),
    ]


@pytest.mark.parametrize(
    ("name", "source_format"),
    [(f"{LAYER}mlp.gate_up_proj.weight", "safetensors"), ("blk.2.ffn_up.weight", "gguf")],
)
def test_phi3s_gate_and_up_are_halves(name: str, source_format: str) -> None:
    found = placed("phi3", name, (384, 128), source_format)
    assert [(p.key.removeprefix(LAYER), p.rows) for p in found.placements] == [
        ("mlp.gate_proj.weight", (0, 192)),
        ("mlp.up_proj.weight", (192, 384)),
    ]


@pytest.mark.parametrize("prefix", ["mlp.experts", "block_sparse_moe.experts"])
def test_a_fused_stack_of_experts_is_two_stacks(prefix: str) -> None:
    found = placed("mixtral", f"{LAYER}{prefix}.gate_up_proj", (4, 384, 128))
    assert [(p.key.removeprefix(LAYER), p.expert, p.rows) for p in found.placements] == [
        ("mlp.experts.gate_proj.weight", None, (0, 192)),
        ("mlp.experts.up_proj.weight", None, (192, 384)),
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{LAYER}self_attn.qkv_proj.weight", (255, 128)),
        (f"{LAYER}self_attn.qkv_proj.weight", ()),
        (f"{LAYER}mlp.gate_up_proj.weight", (385, 128)),
        (f"{LAYER}mlp.gate_up_proj.weight", ()),
        (f"{LAYER}mlp.gate_up_proj.bias", (7,)),
    ],
)
def test_rows_that_do_not_divide_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(MetadataError) as caught:
        placed("phi3", name, shape)
    assert caught.value.tensor == name


@pytest.mark.parametrize(
    ("recipe", "name", "source_format"),
    [
        ("llama", "model.layers.2.self_attn.rotary_emb.inv_freq", "safetensors"),
        ("llama", "model.layers.2.mlp.experts.0.w1.weight", "safetensors"),
        ("llama", "model.layers.2.mlp.experts.00.gate_proj.weight", "safetensors"),
        ("llama", "model.layers.2.self_attn.qkv_proj.weight", "safetensors"),
        ("llama", "transformer.h.0.attn.weight", "safetensors"),
        ("gemma3", "vision_tower.encoder.layers.0.weight", "safetensors"),
        ("llama", "model.layers.2.self_attn.q_proj.weight", "gguf"),
        ("llama", "blk.2.attn_q.lora_a", "gguf"),
        ("llama", "token_types.weight", "gguf"),
    ],
)
def test_what_no_rule_knows_is_unmapped(recipe: str, name: str, source_format: str) -> None:
    assert placed(recipe, name, source_format=source_format) == Place(use="unmapped")


def test_nothing_of_an_unknown_family_is_mapped() -> None:
    info = TensorInfo("model.norm.weight", (8,), F32, Path("f"), 0, 0)
    assert place(info, None, ModelConfig(model_type="novel", family=None), "safetensors").use == "unmapped"
