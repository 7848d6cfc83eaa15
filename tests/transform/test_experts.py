"""GPT-OSS's experts: packed blocks move without a change of value, and gate and up are told apart."""

from __future__ import annotations

from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import wvindex
from tests.support import mxfp4
from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.planned import operation, plan_of, require_whole_ledger, spec, stored, values
from tests.support.random_weights import BFLOAT16
from tests.support.safetensors_writer import fuse_experts
from tests.support.stores import Stores
from wvindex.sources.base import TensorInfo
from wvindex.transform.combine import tensor_rows
from wvindex.transform.experts import EveryNth, Folded, JoinedBlocks, Turned
from wvindex.transform.plan import plan_source
from wvindex.transform.rows import Rows, byte_view, decoded

STEM = "model.layers.2.mlp.experts"
MODEL = checkpoint("gpt_oss")
RNG = np.random.default_rng(7)


def joined(codes: NDArray[np.uint8], exponents: NDArray[np.uint8]) -> JoinedBlocks:
    source = MemorySource({"w_blocks": codes, "w_scales": exponents})
    one, other = source.tensors()
    rows, blocks = exponents.shape
    return JoinedBlocks(source, one, other, rows, 32 * blocks, rows)


def test_blocks_are_what_the_gguf_package_decodes_to_the_values_of_the_definition() -> None:
    codes = RNG.integers(0, 256, (9, 4, 16), dtype=np.uint8)
    exponents = RNG.integers(0, 255, (9, 4), dtype=np.uint8)
    rows = joined(codes, exponents)
    raw = np.empty((9, 4 * 17), np.uint8)
    rows.read_rows(0, 9, byte_view(raw))
    np.testing.assert_array_equal(raw, mxfp4.ggml_blocks(codes, exponents))
    expected = mxfp4.decode(codes, exponents)
    np.testing.assert_array_equal(gguf.dequantize(raw, gguf.GGMLQuantizationType.MXFP4), expected)
    np.testing.assert_array_equal(decoded(rows, 0, 9), expected)


@given(data=st.data())
def test_any_rows_and_any_span_of_them_are_the_wholes(data: st.DataObject) -> None:
    codes = RNG.integers(0, 256, (7, 2, 16), dtype=np.uint8)
    exponents = RNG.integers(0, 255, (7, 2), dtype=np.uint8)
    whole = mxfp4.ggml_blocks(codes, exponents)
    rows = joined(codes, exponents)
    chosen: dict[str, tuple[Rows, NDArray[np.uint8]]] = {
        "all": (rows, whole),
        "every other": (EveryNth(rows, 1, 2, 7), whole[1:7:2]),
    }
    read, expected = chosen[data.draw(st.sampled_from(sorted(chosen)))]
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    left = data.draw(st.integers(0, whole.shape[1] - 1))
    right = data.draw(st.integers(left + 1, whole.shape[1]))
    out = np.empty((stop - start, right - left), np.uint8)
    read.read_rows(start, stop, byte_view(out), span=(left, right))
    np.testing.assert_array_equal(out, expected[start:stop, left:right])
    assert (read.n_rows, read.matrix_rows) == (len(expected), len(expected))


@given(data=st.data())
def test_a_column_is_folded_into_rows(data: st.DataObject) -> None:
    column = RNG.standard_normal(24).astype(np.float32)
    source = MemorySource({"v": column[:, None]})
    rows = Folded(tensor_rows(source, source.tensors()[0]), 6)
    start = data.draw(st.integers(0, 4))
    stop = data.draw(st.integers(start, 4))
    left = data.draw(st.integers(0, 23))
    right = data.draw(st.integers(left + 1, 24))
    out = np.empty((stop - start, right - left), np.uint8)
    rows.read_rows(start, stop, byte_view(out), span=(left, right))
    expected = column.reshape(4, 6).view(np.uint8)[start:stop, left:right]
    np.testing.assert_array_equal(out, expected)


@given(data=st.data())
def test_matrices_are_turned_whole_or_every_other_column(data: st.DataObject) -> None:
    stack = RNG.standard_normal((3, 10, 14)).astype(BFLOAT16)
    source = MemorySource({"w": stack})
    columns = data.draw(st.sampled_from([None, range(0, 14, 2), range(1, 14, 2)]))
    rows = Turned(tensor_rows(source, source.tensors()[0]), columns)
    expected = stack.swapaxes(1, 2)[:, slice(None) if columns is None else columns].reshape(-1, 10)
    assert (rows.n_rows, rows.row_values, rows.encoding.name) == (*expected.shape, "BF16")
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    left = data.draw(st.integers(0, 19))
    right = data.draw(st.integers(left + 1, 20))
    out = np.empty((stop - start, right - left), np.uint8)
    rows.read_rows(start, stop, byte_view(out), span=(left, right))
    np.testing.assert_array_equal(out, expected.view(np.uint8)[start:stop, left:right])


def test_of_a_matrix_that_is_turned_only_the_columns_asked_for_are_read() -> None:
    source = MemorySource({"w": RNG.standard_normal((3, 10, 64)).astype(BFLOAT16)})
    rows = Turned(tensor_rows(source, source.tensors()[0]))
    rows.read_rows(70, 74, byte_view(np.empty((4, 20), np.uint8)))
    assert source.bytes_read == 10 * 4 * 2


def test_a_large_matrix_is_turned_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wvindex.transform.experts._TURNED_BYTES", 64)
    stack = RNG.standard_normal((2, 10, 14)).astype(np.float32)
    source = MemorySource({"w": stack})
    rows = Turned(tensor_rows(source, source.tensors()[0]), range(1, 14, 2))
    np.testing.assert_array_equal(decoded(rows, 0, 14), stack.swapaxes(1, 2)[:, 1::2].reshape(14, 10))


def test_experts_in_fp8_are_turned_as_values() -> None:
    """Scale blocks do not turn with single columns: what comes out is float32, and says that it was cast."""
    codes = RNG.standard_normal((6, 128, 128)).astype(ml_dtypes.float8_e4m3fn)
    scales = RNG.uniform(0.5, 2, (6, 4, 4)).astype(np.float32)
    tensors = dict(fuse_experts(MODEL.tensors, "fused"))
    tensors |= {f"{STEM}.gate_up_proj": codes, f"{STEM}.gate_up_proj_scale_inv": scales}
    quantized = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
    plan = plan_source(MemorySource(tensors, MODEL.config | quantized))
    expected = codes.astype(np.float32) * scales.repeat(32, 1).repeat(32, 2)
    for place, part in enumerate(("gate", "up")):
        key = f"{STEM}.{part}_proj.weight"
        np.testing.assert_array_equal(values(plan, key), expected.swapaxes(1, 2)[:, place::2])
        assert (spec(plan, key).encoding.name, spec(plan, key).exactness) == ("F32", "cast")


def expected_of(part: str, kind: str) -> NDArray[Any]:
    """Give what the model's definition makes of a layer's fused tensor: gate and up take turns."""
    weights = MODEL.decoded()
    name = "down" if part == "down" else "gate_up"
    found = weights[f"{STEM}.{name}_proj" + ("_bias" if kind == "bias" else "")]
    found = found if kind == "bias" else found.swapaxes(1, 2)
    return found if part == "down" else found[:, ("gate", "up").index(part) :: 2]


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("part", ["gate", "up", "down"])
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_each_projection_has_its_values(form: str, part: str, kind: str) -> None:
    tensors = fuse_experts(MODEL.tensors, "each" if form == "packed" else "fused")
    plan = plan_source(MemorySource(tensors, MODEL.config))
    require_whole_ledger(plan, list(tensors))
    key = f"{STEM}.{part}_proj.{kind}"
    np.testing.assert_array_equal(values(plan, key), expected_of(part, kind))
    found = spec(plan, key)
    assert found.encoding.name == ("MXFP4" if (form, kind) == ("packed", "weight") else "BF16")
    changed = ["join_mxfp4"] if form == "packed" else ["transpose"]
    changed = [] if kind == "bias" else changed
    changed += [] if part == "down" else ["deinterleave"]
    assert found.transforms == tuple(changed)
    assert found.exactness == ("reordered" if changed else "bit")


def test_packed_experts_have_the_bytes_that_llama_cpp_writes(stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors("gpt_oss"))) as ours,
        wvindex.open(stores.build(stores.gguf("gpt_oss"))) as theirs,
    ):
        keys = [key for key in ours if ours[key].encoding == "MXFP4"]
        assert len(keys) == 3 * MODEL.config["num_hidden_layers"]
        for key in keys:
            assert theirs[key].exactness == "bit"
            np.testing.assert_array_equal(ours[key].raw(), theirs[key].raw(), err_msg=key)


def test_a_packed_build_is_no_larger_than_its_source() -> None:
    plan = plan_of("gpt_oss")
    assert plan.bytes_out == plan.bytes_in


def test_they_are_cast_where_that_is_asked_for() -> None:
    plan = plan_of("gpt_oss", dtype="bfloat16")
    found = operation(plan, f"{STEM}.up_proj.weight").spec
    assert (found.encoding.name, found.exactness) == ("BF16", "cast")
    assert found.transforms == ("join_mxfp4", "deinterleave", "cast")
    written = np.frombuffer(stored(plan, found.key), BFLOAT16).reshape(found.shape)
    np.testing.assert_array_equal(written.astype(np.float32), expected_of("up", "weight"))


def test_a_stack_of_another_height_is_refused() -> None:
    name = f"{STEM}.gate_up_proj"
    codes = np.zeros((6, 130, 4, 16), np.uint8)
    plan = plan_of("gpt_oss", {f"{name}_blocks": codes, f"{name}_scales": codes[..., 0]})
    assert {refusal.tensor for refusal in plan.refusals} == {f"{name}_blocks"}
    assert plan.refusals[0].error.expected == "64 + 64 rows"


def test_experts_that_are_missing_are_refused() -> None:
    name = f"{STEM}.down_proj"
    codes = np.zeros((5, 128, 2, 16), np.uint8)
    plan = plan_of("gpt_oss", {f"{name}_blocks": codes, f"{name}_scales": codes[..., 0]})
    assert [refusal.error.field for refusal in plan.refusals] == ["n_routed_experts"]


def test_plain_experts_that_lie_the_other_way_are_refused() -> None:
    tensors = dict(fuse_experts(MODEL.tensors, "fused"))
    tensors[f"{STEM}.down_proj"] = np.ascontiguousarray(tensors[f"{STEM}.down_proj"].swapaxes(1, 2))
    plan = plan_source(MemorySource(tensors, MODEL.config))
    assert [refusal.tensor for refusal in plan.refusals] == [f"{STEM}.down_proj"]
    assert plan.refusals[0].error.field == "moe_intermediate_size"


def test_the_codes_place_is_their_own_files() -> None:
    infos: dict[str, TensorInfo] = {info.name: info for info in MemorySource(MODEL.tensors).tensors()}
    plan = plan_of("gpt_oss")
    entries = {entry.tensor: entry for entry in plan.ledger}
    for suffix in ("blocks", "scales"):
        name = f"{STEM}.gate_up_proj_{suffix}"
        assert entries[name].shape == infos[name].shape
        assert entries[name].keys == (f"{STEM}.gate_proj.weight", f"{STEM}.up_proj.weight")
        assert entries[name].reason == ("scales" if suffix == "scales" else None)
