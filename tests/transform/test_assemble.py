"""Each array has the values, the encoding and the label that its sources and the options call for."""

from __future__ import annotations

from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import fp8
from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.planned import operation, plan_of, spec, stored, values
from tests.support.safetensors_writer import fuse_experts
from wvindex.errors import DuplicateName, MetadataError, UndecodableType
from wvindex.formats.arrays import Heads
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.transform import assemble as module
from wvindex.transform.assemble import storage_for
from wvindex.transform.plan import Plan, plan_source, require_representable

Q = "model.layers.0.self_attn.q_proj.weight"
STACK = "model.layers.0.mlp.experts.gate_proj.weight"
EXPERT = "model.layers.0.mlp.experts.{}.gate_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
E = {name: ENCODINGS[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "I32", "BOOL", "Q4_K")}


def refusal(plan: Plan) -> Exception:
    [found] = plan.refusals
    with pytest.raises(type(found.error)):
        require_representable(plan)
    return found.error


def floats(name: str, key: str) -> NDArray[np.float32]:
    return checkpoint(name).tensors[key].astype(np.float32)


# Storage


@pytest.mark.parametrize(
    ("encodings", "ndim", "storage", "expected"),
    [
        (["F32"], 2, None, None),
        (["Q4_K"], 2, None, None),
        (["BF16"], 2, "F32", "F32"),
        (["F32"], 2, "F32", None),
        (["F64"], 2, "F16", "F16"),
        (["F8_E4M3"], 2, "BF16", "BF16"),
        (["Q4_K"], 3, "F16", "F16"),
        # Vectors may be widened, never narrowed.
        (["F32"], 1, "F16", None),
        (["F32"], 0, "BF16", None),
        (["F64"], 1, "F16", None),
        (["BF16"], 1, "F32", "F32"),
        (["BF16"], 1, "F16", None),
        # What is no number with a point stays.
        (["I32"], 2, "F32", None),
        (["BOOL"], 2, "F16", None),
        # Parts of one array must agree.
        (["F16", "BF16"], 2, None, "F32"),
        (["F16", "Q4_K"], 3, "BF16", "BF16"),
        (["F16", "BF16"], 1, "F16", "F32"),
    ],
)
def test_what_an_array_is_stored_as(
    encodings: list[str], ndim: int, storage: str | None, expected: str | None
) -> None:
    found = storage_for({E[name] for name in encodings}, ndim, E[storage] if storage else None)
    assert found == (E[expected] if expected else None)


@pytest.mark.parametrize(
    ("dtype", "encoding"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
)
def test_dtype_casts_matrices_and_leaves_vectors(dtype: str, encoding: str) -> None:
    wide = {Q: checkpoint("llama").tensors[Q].astype(np.float32) * np.float32(1.001)}
    norm = {NORM: checkpoint("llama").tensors[NORM].astype(np.float32)}
    plan = plan_of("llama", wide | norm, dtype=dtype)
    assert spec(plan, Q).encoding.name == encoding
    expected = wide[Q].astype(ENCODINGS[encoding].dtype).astype(np.float32)
    np.testing.assert_array_equal(values(plan, Q), expected)
    assert spec(plan, Q).exactness == ("bit" if encoding == "F32" else "cast")
    assert spec(plan, NORM).encoding.name == "F32"
    assert spec(plan, NORM).exactness == "bit"


def test_a_vector_in_bfloat16_is_widened_but_not_turned_to_half() -> None:
    assert spec(plan_of("llama", dtype="float32"), NORM).encoding.name == "F32"
    assert spec(plan_of("llama", dtype="float16"), NORM).encoding.name == "BF16"


def test_integers_are_left_as_they_are() -> None:
    extra = {"position_ids": np.arange(12, dtype=np.int64).reshape(3, 4), "mask": np.ones((2, 2), np.bool_)}
    plan = plan_of("llama", extra, dtype="float16")
    assert spec(plan, "position_ids").encoding.name == "I64"
    assert spec(plan, "mask").encoding.name == "BOOL"
    assert stored(plan, "position_ids") == extra["position_ids"].tobytes()


def undecodable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Take a type's decoder away: every type of today has one."""

    def can_decode(encoding: Encoding) -> bool:
        return encoding.name != name

    monkeypatch.setattr(module, "can_decode", can_decode)


def packed(shape: tuple[int, int], seed: int = 0) -> tuple[str, tuple[int, ...], NDArray[np.uint8]]:
    blocks = np.random.default_rng(seed).integers(0, 256, (shape[0], shape[1] // 32 * 34), np.uint8)
    return "Q8_0", shape, blocks


def test_a_type_that_nobody_decodes_is_kept_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    undecodable(monkeypatch, "Q8_0")
    blocks = packed((128, 128))
    plan = plan_of("llama", {Q: blocks})
    assert plan.refusals == ()
    assert (spec(plan, Q).encoding.name, spec(plan, Q).exactness) == ("Q8_0", "bit")
    assert stored(plan, Q) == blocks[2].tobytes()


def test_a_type_that_nobody_decodes_refuses_a_cast_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    undecodable(monkeypatch, "Q8_0")
    error = refusal(plan_of("llama", {Q: packed((128, 128))}, dtype="float32"))
    assert isinstance(error, UndecodableType)
    assert (error.tensor, error.found) == (Q, "Q8_0")


def test_experts_that_nobody_decodes_refuse_to_be_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    undecodable(monkeypatch, "Q8_0")
    error = refusal(plan_of("qwen3_moe", {EXPERT.format(3): packed((64, 128))}))
    assert isinstance(error, UndecodableType)
    assert error.found == "Q8_0"


# Labels


def test_bytes_as_they_come_are_labelled_bit() -> None:
    found = spec(plan_of("llama"), Q)
    assert (found.exactness, found.transforms, found.sources, found.mapped) == ("bit", (), (Q,), True)
    assert found.aliases == ("blk.0.attn_q.weight",)
    assert found.heads == Heads(axis=0, count=4)


def test_a_cast_is_labelled() -> None:
    found = spec(plan_of("llama", dtype="float32"), Q)
    assert (found.exactness, found.transforms) == ("cast", ("cast",))


def test_stacked_experts_are_labelled_reordered() -> None:
    found = spec(plan_of("qwen3_moe"), STACK)
    assert (found.exactness, found.transforms) == ("reordered", ("stack",))
    assert found.sources == found.part_aliases == tuple(EXPERT.format(i) for i in range(6))


def test_split_projections_are_labelled_reordered() -> None:
    found = spec(plan_of("phi3"), Q)
    assert (found.exactness, found.transforms) == ("reordered", ("split",))
    assert found.sources == ("model.layers.0.self_attn.qkv_proj.weight",)
    assert found.sources[0] not in found.aliases  # it names three arrays


def test_a_name_of_the_source_is_an_alias_where_it_is_the_whole() -> None:
    found = spec(plan_of("mixtral"), "model.layers.0.mlp.gate.weight")
    assert "model.layers.0.block_sparse_moe.gate.weight" in found.aliases


@pytest.mark.parametrize(
    ("key", "heads"),
    [
        ("q_proj.weight", Heads(axis=0, count=4)),
        ("k_proj.weight", Heads(axis=0, count=2)),
        ("v_proj.weight", Heads(axis=0, count=2)),
        ("o_proj.weight", Heads(axis=1, count=4)),
        ("q_proj.bias", Heads(axis=0, count=4)),
        ("o_proj.bias", None),
    ],
)
def test_heads_are_told(key: str, heads: Heads | None) -> None:
    assert spec(plan_of("llama-linear"), f"model.layers.1.self_attn.{key}").heads == heads


def test_gguf_norms_lose_the_one_that_was_added() -> None:
    norm = checkpoint("gemma2").tensors["model.norm.weight"].astype(np.float32)
    metadata = {"general.architecture": "gemma2", **GEMMA2}
    tensors = {
        "token_embd.weight": np.zeros((4, 128), np.float32),
        "output_norm.weight": norm + np.float32(1),
    }
    plan = plan_source(MemorySource(tensors, metadata, "gguf"))
    found = spec(plan, "model.norm.weight")
    assert (found.exactness, found.transforms) == ("derived", ("subtract_one",))
    np.testing.assert_array_equal(values(plan, "model.norm.weight"), norm)


GEMMA2 = {
    "gemma2.block_count": 2,
    "gemma2.embedding_length": 128,
    "gemma2.attention.head_count": 4,
    "gemma2.attention.head_count_kv": 2,
    "gemma2.attention.sliding_window": 16,
    "gemma2.attention.layer_norm_rms_epsilon": 1e-6,
}


# Experts


def test_experts_come_together_in_their_own_order_whatever_the_files() -> None:
    """safetensors sorts names as text: 10 stands before 2."""
    rng = np.random.default_rng(0)
    names = sorted(EXPERT.format(i) for i in range(12))
    experts = {name: rng.standard_normal((64, 128)).astype(np.float32) for name in names}
    gone = tuple(
        name for name in checkpoint("qwen3_moe").tensors if name.startswith("model.layers.0.mlp.experts.")
    )
    plan = plan_of(
        "qwen3_moe", experts, drop=tuple(n for n in gone if n not in experts), config={"num_experts": 12}
    )
    order = [EXPERT.format(i) for i in range(12)]
    np.testing.assert_array_equal(values(plan, STACK), np.stack([experts[name] for name in order]))
    assert list(spec(plan, STACK).sources) == order
    assert list(spec(plan, STACK).part_aliases) == order


@pytest.mark.parametrize("experts", ["each", "fused", "mixed"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3-fp8"])
def test_each_fused_and_mixed_experts_are_the_same_arrays(name: str, experts: Any) -> None:
    model = checkpoint(name)
    plan = plan_source(MemorySource(fuse_experts(model.tensors, experts), model.config))
    each = plan_source(MemorySource(model.tensors, model.config))
    assert plan.refusals == ()
    assert {op.spec.key for op in plan.operations} == {op.spec.key for op in each.operations}
    for op in each.operations:
        if ".experts." in op.spec.key:
            assert spec(plan, op.spec.key).shape == op.spec.shape
            np.testing.assert_array_equal(
                values(plan, op.spec.key), values(each, op.spec.key), err_msg=op.spec.key
            )


def test_a_fused_stack_is_gate_rows_then_up_rows() -> None:
    rng = np.random.default_rng(1)
    fused = rng.standard_normal((6, 128, 128)).astype(np.float32)
    gone = tuple(
        n for n in checkpoint("qwen3_moe").tensors if "layers.0.mlp.experts." in n and "down" not in n
    )
    plan = plan_of("qwen3_moe", {"model.layers.0.mlp.experts.gate_up_proj": fused}, drop=gone)
    assert plan.refusals == ()
    np.testing.assert_array_equal(values(plan, STACK), fused[:, :64])
    np.testing.assert_array_equal(values(plan, STACK.replace("gate", "up")), fused[:, 64:])
    assert spec(plan, STACK).transforms == ("split",)


def test_fp8_experts_whose_halves_cut_a_scale_block_are_decoded() -> None:
    rng = np.random.default_rng(2)
    parts = [fp8.quantize(rng.standard_normal((128, 128)).astype(np.float32), (48, 48)) for _ in range(6)]
    fused = {
        "model.layers.0.mlp.experts.gate_up_proj": np.stack([codes for codes, _ in parts]),
        "model.layers.0.mlp.experts.gate_up_proj_scale_inv": np.stack([scales for _, scales in parts]),
    }
    gone = tuple(
        n for n in checkpoint("qwen3_moe").tensors if "layers.0.mlp.experts." in n and "down" not in n
    )
    quantization = {"quantization_config": {"weight_block_size": [48, 48]}}
    plan = plan_of("qwen3_moe", fused, drop=gone, config=quantization)
    assert plan.refusals == ()
    expected = np.stack([fp8.dequantize(codes, scales, (48, 48)) for codes, scales in parts])
    np.testing.assert_array_equal(values(plan, STACK), expected[:, :64])
    np.testing.assert_array_equal(values(plan, STACK.replace("gate", "up")), expected[:, 64:])


def test_experts_of_different_encodings_become_float32() -> None:
    own = floats("qwen3_moe", EXPERT.format(2))
    quantized = gguf.quants.quantize(own, gguf.GGMLQuantizationType.Q8_0)
    changes: dict[str, Any] = {
        EXPERT.format(1): floats("qwen3_moe", EXPERT.format(1)),
        EXPERT.format(2): ("Q8_0", own.shape, quantized),
    }
    plan = plan_of("qwen3_moe", changes)
    found = spec(plan, STACK)
    assert (found.encoding.name, found.exactness, found.transforms) == ("F32", "cast", ("stack", "cast"))
    stack = values(plan, STACK)
    for expert in (0, 1, 3, 4, 5):
        np.testing.assert_array_equal(stack[expert], floats("qwen3_moe", EXPERT.format(expert)))
    expected = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(stack[2], expected)


def test_a_missing_expert_is_refused() -> None:
    error = refusal(plan_of("qwen3_moe", drop=(EXPERT.format(4),)))
    assert isinstance(error, MetadataError)
    assert (error.field, error.found) == ("n_routed_experts", "none numbered [4]")


def test_an_expert_too_many_is_refused() -> None:
    error = refusal(
        plan_of("qwen3_moe", {EXPERT.format(6): checkpoint("qwen3_moe").tensors[EXPERT.format(0)]})
    )
    assert isinstance(error, MetadataError)
    assert (error.tensor, error.expected, error.found) == (EXPERT.format(6), 6, 7)


def test_an_expert_that_stands_twice_is_refused() -> None:
    mixtral = "model.layers.0.mlp.experts.1.gate_proj.weight"
    again = checkpoint("mixtral").tensors["model.layers.0.block_sparse_moe.experts.1.w1.weight"]
    error = refusal(plan_of("mixtral", {mixtral: again}))
    assert isinstance(error, DuplicateName)
    assert error.tensor == mixtral


@pytest.mark.parametrize("shape", [(63, 128), (64, 64), (64,), (1, 64, 128)])
def test_experts_of_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    error = refusal(plan_of("qwen3_moe", {EXPERT.format(2): np.zeros(shape, np.float32)}))
    assert isinstance(error, MetadataError)
    assert error.tensor in {EXPERT.format(2), EXPERT.format(0)}


def test_a_stack_of_another_number_of_experts_is_refused() -> None:
    gone = tuple(
        n for n in checkpoint("qwen3_moe").tensors if "layers.0.mlp.experts." in n and "down" not in n
    )
    fused = {"model.layers.0.mlp.experts.gate_up_proj": np.zeros((5, 128, 128), np.float32)}
    plan = plan_of("qwen3_moe", fused, drop=gone)
    assert len(plan.refusals) == 2
    assert all(refusal.error.field == "n_routed_experts" for refusal in plan.refusals)


def test_a_stack_beside_single_experts_is_refused() -> None:
    fused = {"model.layers.0.mlp.experts.gate_up_proj": np.zeros((6, 128, 128), np.float32)}
    assert len(plan_of("qwen3_moe", fused).refusals) == 2


# Duplicates, rows that do not divide


def test_two_tensors_that_claim_one_array_are_refused() -> None:
    error = refusal(plan_of("gemma3", {"language_model.model.norm.weight": np.ones(64, np.float32)}))
    assert isinstance(error, DuplicateName)
    assert error.tensor == "language_model.model.norm.weight"
    assert error.expected == "model.norm.weight alone"


@pytest.mark.parametrize("shape", [(126, 128), (2, 64, 128), ()])
def test_rows_that_do_not_divide_into_heads_are_refused(shape: tuple[int, ...]) -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
    }
    tensors = {
        "token_embd.weight": np.zeros((4, 128), np.float32),
        "blk.0.attn_q.weight": np.zeros(shape, np.float32),
    }
    error = refusal(plan_source(MemorySource(tensors, metadata, "gguf")))
    assert isinstance(error, MetadataError)
    assert error.tensor == "blk.0.attn_q.weight"


def test_a_refusal_is_counted_with_the_others() -> None:
    plan = plan_of("qwen3_moe", drop=(EXPERT.format(4), EXPERT.format(4).replace("gate", "up")))
    with pytest.raises(MetadataError, match=r"\[and 1 more\]"):
        require_representable(plan)


def test_packed_rows_move_whole_when_they_are_unpermuted() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
    }
    blocks = packed((16, 64), 5)
    plan = plan_source(
        MemorySource(
            {"token_embd.weight": np.zeros((4, 64), np.float32), "blk.0.attn_q.weight": blocks},
            metadata,
            "gguf",
        )
    )
    found = operation(plan, Q)
    assert (found.spec.exactness, found.spec.transforms) == ("reordered", ("permute",))
    # llama.cpp's permutation of 2 heads of 8: reshape to (heads, 2, 4), swap, flatten.
    standard = np.arange(16).reshape(2, 2, 4).swapaxes(1, 2).ravel()
    rows = np.frombuffer(stored(plan, Q), np.uint8).reshape(16, -1)
    np.testing.assert_array_equal(rows[standard], blocks[2])


def test_plain_fp8_without_scales_can_be_cast() -> None:
    codes = np.linspace(-2, 2, 64 * 128).reshape(64, 128).astype(ml_dtypes.float8_e4m3fn)
    plan = plan_of("llama", {"extra.weight": codes}, dtype="float32")
    np.testing.assert_array_equal(values(plan, "extra.weight"), codes.astype(np.float32))
