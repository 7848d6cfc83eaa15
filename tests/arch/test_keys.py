"""Standard keys and GGUF names are each other's inverse, and the gguf package's own."""

from __future__ import annotations

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.arch.keys import (
    CORRECTION_BIAS,
    LAYER_MODULES,
    ROOT_MODULES,
    STANDARD_ROLES,
    STANDARD_ROOTS,
    gguf_name,
    is_standard,
    layer_key,
    split_layer,
    standard_key,
)
from wvindex.arch.registry import FAMILIES

ARCHS = sorted({family.gguf_arch for family in FAMILIES} - {""})
LAYERS = st.integers(0, 4095)
ATTENTION = [f"self_attn.{name}_proj.weight" for name in "qkvo"]
LATENT = [
    "q_a_proj",
    "q_a_layernorm",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_a_layernorm",
    "kv_b_proj",
    "k_b_proj",
]
INDEXER = [
    *(f"self_attn.indexer.{name}.weight" for name in ("wq_b", "wk", "k_norm", "weights_proj")),
    "self_attn.indexer.k_norm.bias",
]
ROLES_OF = {
    "llama": [*ATTENTION, "mlp.gate.weight", "mlp.experts.down_proj.weight", "mlp.up_proj.bias"],
    "qwen2": [*ATTENTION, "self_attn.q_proj.bias", "post_attention_layernorm.weight"],
    "qwen3": [*ATTENTION, "self_attn.q_norm.weight", "self_attn.k_norm.weight"],
    "qwen3moe": [*ATTENTION, "mlp.gate.weight", "mlp.experts.gate_proj.weight"],
    "gemma2": [*ATTENTION, "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"],
    "gemma3": [*ATTENTION, "self_attn.q_norm.weight", "post_attention_layernorm.weight"],
    "phi3": ["self_attn.o_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"],
    "deepseek2": [
        *(f"self_attn.{name}.weight" for name in LATENT),
        CORRECTION_BIAS,
        "mlp.shared_experts.up_proj.weight",
    ],
    "minicpm3": [f"self_attn.{name}.weight" for name in LATENT[:6]],
    "mistral4": [*(f"self_attn.{name}.weight" for name in LATENT), "mlp.shared_experts.up_proj.weight"],
    "gpt-oss": [
        *ATTENTION,
        "self_attn.o_proj.bias",
        "post_attention_layernorm.weight",
        "mlp.gate.bias",
        "mlp.experts.up_proj.bias",
    ],
    "glm-dsa": [f"self_attn.{name}.weight" for name in LATENT] + INDEXER,
    "deepseek32": [f"self_attn.{name}.weight" for name in LATENT] + INDEXER,
}


def packages_name(arch: str, key: str) -> str | None:
    """Give what the gguf package calls a tensor, asked for by its whole name."""
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    number = known.get(arch, known["glm-dsa"])  # DeepSeek-V3.2's names are GLM-5's
    name_map = gguf.get_tensor_name_map(number, 8)
    found: str | None = name_map.get_name(key.replace("_bias", ".bias"), try_suffixes=(".weight", ".bias"))
    return found


@pytest.mark.parametrize("arch", ARCHS)
@given(layer=LAYERS, role=st.sampled_from(sorted(STANDARD_ROLES)))
def test_a_standard_key_comes_back_from_its_gguf_name(arch: str, layer: int, role: str) -> None:
    key = layer_key(layer, role)
    name = gguf_name(key, arch)
    if name is not None:
        back = standard_key(name, arch)
        assert back is not None
        # Where GGUF has one name for two modules, the first of them in the list of modules has it.
        assert gguf_name(back, arch) == name
        assert split_layer(back)[0] == layer


@pytest.mark.parametrize("arch", ARCHS)
def test_no_gguf_name_stands_for_two_keys_that_a_family_uses(arch: str) -> None:
    for role in ROLES_OF[arch]:
        key = layer_key(3, role)
        name = gguf_name(key, arch)
        assert name is not None, role
        assert standard_key(name, arch) == key


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("key", [f"{module}.weight" for module in ROOT_MODULES])
def test_roots_come_back(arch: str, key: str) -> None:
    name = gguf_name(key, arch)
    if name is None:  # tied in every model of these families: GGUF has no name for a head of their own
        assert (arch, key) in {("gemma2", "lm_head.weight")}
    else:
        assert standard_key(name, arch) == key


@pytest.mark.parametrize("arch", ARCHS)
def test_names_are_the_packages(arch: str) -> None:
    for role in ROLES_OF[arch]:
        key = layer_key(5, role)
        assert gguf_name(key, arch) == packages_name(arch, key)


@pytest.mark.parametrize(
    ("arch", "name", "key"),
    [
        # What Llama calls post_attention_layernorm stands before the MLP; Gemma's stands after attention.
        ("llama", "blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
        ("gemma2", "blk.7.ffn_norm.weight", "model.layers.7.pre_feedforward_layernorm.weight"),
        ("gemma2", "blk.7.post_attention_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
        ("gemma2", "blk.7.post_ffw_norm.weight", "model.layers.7.post_feedforward_layernorm.weight"),
        ("gemma3", "blk.7.ffn_norm.weight", "model.layers.7.pre_feedforward_layernorm.weight"),
        ("gemma3", "blk.7.post_attention_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
        ("llama", "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"),
        ("deepseek2", "blk.4.exp_probs_b.bias", "model.layers.4.mlp.gate.e_score_correction_bias"),
        ("deepseek2", "blk.4.ffn_gate_inp.weight", "model.layers.4.mlp.gate.weight"),
        ("deepseek2", "blk.4.ffn_up_shexp.weight", "model.layers.4.mlp.shared_experts.up_proj.weight"),
        ("deepseek2", "blk.4.attn_kv_b.weight", "model.layers.4.self_attn.kv_b_proj.weight"),
        ("deepseek2", "blk.4.attn_k_b.weight", "model.layers.4.self_attn.k_b_proj.weight"),
        ("gpt-oss", "blk.2.attn_sinks.weight", "model.layers.2.self_attn.sinks"),
        ("gpt-oss", "blk.2.post_attention_norm.weight", "model.layers.2.post_attention_layernorm.weight"),
        ("gpt-oss", "blk.2.ffn_down_exps.bias", "model.layers.2.mlp.experts.down_proj.bias"),
        ("glm-dsa", "blk.4.indexer.proj.weight", "model.layers.4.self_attn.indexer.weights_proj.weight"),
        ("deepseek32", "blk.4.indexer.k_norm.bias", "model.layers.4.self_attn.indexer.k_norm.bias"),
        ("llama", "token_embd.weight", "model.embed_tokens.weight"),
        ("llama", "output_norm.weight", "model.norm.weight"),
        ("llama", "output.weight", "lm_head.weight"),
    ],
)
def test_known_names(arch: str, name: str, key: str) -> None:
    assert standard_key(name, arch) == key
    assert gguf_name(key, arch) == name


def test_phi3s_fused_projections_go_before_the_plain_ones() -> None:
    fused = ("self_attn.qkv_proj", "mlp.gate_up_proj")
    assert standard_key("blk.2.ffn_up.weight", "phi3", fused) == "model.layers.2.mlp.gate_up_proj.weight"
    assert standard_key("blk.2.attn_qkv.weight", "phi3", fused) == "model.layers.2.self_attn.qkv_proj.weight"
    assert standard_key("blk.2.ffn_down.weight", "phi3", fused) == "model.layers.2.mlp.down_proj.weight"
    assert standard_key("blk.2.ffn_up.weight", "llama") == "model.layers.2.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "name",
    [
        "blk.01.attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.٣.attn_q.weight",
        "blk.1.attn_q.weight\n",
        "blk.12345.attn_q.weight",
        "blk.1.attn_q",
        "blk.1.attn_q.scale",
        "blk.1.unheard_of.weight",
        "attn_q.weight",
        "rope_freqs.weight",
        "",
    ],
)
def test_other_names_have_no_key(name: str) -> None:
    assert standard_key(name, "llama") is None


@given(layer=LAYERS, role=st.text(min_size=1).filter(lambda s: "\n" not in s))
def test_layers_split_and_join(layer: int, role: str) -> None:
    assert split_layer(layer_key(layer, role)) == (layer, role)


@pytest.mark.parametrize(
    "key", ["model.layers.01.x", "model.layers.x", "model.layers.1.", "model.layers.1", "x"]
)
def test_what_is_no_layers_key_is_left_whole(key: str) -> None:
    assert split_layer(key) == (None, key)


def test_what_is_standard() -> None:
    assert all(is_standard(layer_key(0, f"{module}.weight")) for module in LAYER_MODULES)
    assert all(is_standard(key) for key in STANDARD_ROOTS)
    assert not is_standard("model.layers.0.self_attn.qkv_proj.weight")
    assert not is_standard("self_attn.q_proj.weight")
    assert not is_standard("model.layers.0.lm_head.weight")


def test_an_architecture_that_the_package_lacks_has_no_names() -> None:
    assert gguf_name("model.norm.weight", "unheard-of") is None
    assert standard_key("output_norm.weight", "unheard-of") is None
