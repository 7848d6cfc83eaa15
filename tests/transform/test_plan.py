"""The plan accounts for every tensor, says what it will write, and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint, names
from tests.support.memory_source import MemorySource
from tests.support.planned import plan_of, require_whole_ledger, spec
from tests.support.safetensors_writer import fuse_experts
from tests.support.stores import Stores
from wvindex.errors import UsageError
from wvindex.limits import PROCESS_BYTES
from wvindex.transform.plan import plan_source

MLA_OPTIONS = ("absorb", "keep", "both")


@pytest.mark.parametrize("mla", MLA_OPTIONS)
@pytest.mark.parametrize("experts", ["each", "fused", "mixed"])
@pytest.mark.parametrize("name", names())
def test_every_tensor_of_a_hub_checkpoint_is_accounted_for(name: str, experts: Any, mla: str) -> None:
    tensors = fuse_experts(checkpoint(name).tensors, experts)
    plan = plan_source(MemorySource(tensors, checkpoint(name).config), mla=mla)
    require_whole_ledger(plan, list(tensors))
    assert all(op.spec.mapped for op in plan.operations)


@pytest.mark.parametrize("mla", MLA_OPTIONS)
@pytest.mark.parametrize("form", ["split", "kv_b"])
@pytest.mark.parametrize("name", names(gguf=True))
def test_every_tensor_of_a_gguf_file_is_accounted_for(name: str, form: Any, mla: str, stores: Stores) -> None:
    path = stores.gguf(name, form if "kv_lora_rank" in checkpoint(name).config else "split")
    plan = wvindex.plan(path, mla=mla)
    require_whole_ledger(plan, [entry.tensor for entry in plan.ledger])
    assert all(op.spec.mapped for op in plan.operations)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "golden").glob("*.gguf")), ids=lambda path: path.stem
)
def test_every_tensor_of_llama_cpps_files_is_accounted_for(path: Path) -> None:
    plan = wvindex.plan(path)
    require_whole_ledger(plan, [entry.tensor for entry in plan.ledger])
    assert all(op.spec.mapped for op in plan.operations) == (path.stem != "type-zoo")


def test_scales_go_where_their_codes_go() -> None:
    plan = plan_of("deepseek_v3-fp8")
    ledger = {entry.tensor: entry for entry in plan.ledger}
    for name, entry in ledger.items():
        if name.endswith("_scale_inv"):
            assert entry.reason == "scales"
            assert entry.keys == ledger[name.removesuffix("_scale_inv")].keys


def test_rotary_tensors_are_part_of_the_configuration(stores: Stores) -> None:
    plan = wvindex.plan(stores.gguf("phi3-longrope"))
    reasons = {entry.tensor: (entry.keys, entry.reason) for entry in plan.ledger}
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        assert reasons[name] == ((), "config.rope")


def test_what_no_rule_maps_is_kept_under_its_own_name() -> None:
    extra: dict[str, Any] = {
        "vision.patch.weight": np.ones((2, 3, 4, 5), np.float32),
        "vision.scale": np.array(3.0, np.float32),
        "model.layers.0.self_attn.odd.weight": np.ones(3, np.float16),
    }
    plan = plan_of("llama", extra)
    for name, values in extra.items():
        found = spec(plan, name)
        assert (found.mapped, found.exactness, found.shape) == (False, "bit", values.shape)
    assert sum(not op.spec.mapped for op in plan.operations) == 3
    assert "3 under their own names" in str(plan)


def test_an_unknown_family_keeps_every_name() -> None:
    tensors = checkpoint("llama").tensors
    plan = plan_source(MemorySource(tensors, {"model_type": "novel"}))
    require_whole_ledger(plan, list(tensors))
    assert {op.spec.key for op in plan.operations} == set(tensors)
    assert not any(op.spec.mapped or op.spec.mtp for op in plan.operations)


def test_an_empty_checkpoint_is_an_empty_plan() -> None:
    plan = plan_source(MemorySource({}))
    assert (plan.operations, plan.ledger, plan.bytes_in, plan.bytes_out) == ((), (), 0, 0)
    assert plan.peak_memory == PROCESS_BYTES


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3", "deepseek_v3-fp8"])
def test_sizes_add_up(name: str) -> None:
    plan = plan_of(name)
    assert plan.bytes_in == sum(tensor.nbytes for tensor in checkpoint(name).tensors.values())
    assert plan.bytes_out == sum(op.spec.nbytes for op in plan.operations)
    if name in {"llama", "mixtral"}:  # nothing but copies
        assert plan.bytes_out == plan.bytes_in


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("dtype", ["keep", "float16"])
def test_every_operations_rows_fit_its_spec(name: str, dtype: str) -> None:
    for op in plan_of(name, dtype=dtype, mla="both").operations:
        assert op.rows.encoding == op.spec.encoding
        assert op.rows.n_rows == op.spec.n_rows
        assert op.rows.row_values == op.spec.row_values
        assert op.rows.matrix_rows == op.spec.matrix_rows or op.spec.encoding.scale_block is None


def test_operations_stand_as_a_forward_pass_reads() -> None:
    keys = [op.spec.key for op in plan_of("llama").operations]
    assert keys[0] == "model.embed_tokens.weight"
    layers = [int(key.split(".")[2]) for key in keys if key.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert keys[-2:] == ["lm_head.weight", "model.norm.weight"]


def test_a_plan_reads_headers_only() -> None:
    model = checkpoint("deepseek_v3-fp8")
    source = MemorySource(model.tensors, model.config)
    plan_source(source, mla="both")
    assert source.bytes_read == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("mla", "dense"), ("mla", ""), ("dtype", "float64"), ("dtype", "F32"), ("absorbed_dtype", "keep")],
)
def test_options_have_known_values(option: str, value: str) -> None:
    with pytest.raises(UsageError, match=option):
        plan_source(MemorySource({}), **dict[str, Any]({option: value}))


def test_the_report_says_what_would_be_refused() -> None:
    gone = "model.layers.1.mlp.experts.0.up_proj.weight"
    report = str(plan_of("qwen3_moe", drop=(gone,)))
    assert "qwen3_moe" in report
    assert "refused" in report
    assert "are missing" in report


def test_the_config_is_dense_once_it_is_absorbed() -> None:
    forms = {mla: plan_of("deepseek_v3", mla=mla).config.attention_form for mla in MLA_OPTIONS}
    assert forms == {"absorb": "dense", "keep": "factored", "both": "dense"}
