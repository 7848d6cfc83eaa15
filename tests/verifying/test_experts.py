"""A change to GPT-OSS's experts is found in the array that holds it, however the source lays them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import wvindex
from tests.support.changed_sources import changed, load_raw
from tests.support.checkpoints import checkpoint
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.sealing import copied, edit, only_fault, seal
from wvindex.verifying import verify

STEM = "model.layers.0.mlp.experts"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a checkpoint in MXFP4 and its store."""
    directory = tmp_path_factory.mktemp("packed")
    source = write_safetensors(checkpoint("gpt_oss"), directory / "model")
    return source, seal(wvindex.build(source, directory / "x.zarr"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give the same with experts as values, (experts, in, out), and its store."""
    directory = tmp_path_factory.mktemp("plain")
    source = write_safetensors(checkpoint("gpt_oss"), directory / "model", experts="fused")
    return source, seal(wvindex.build(source, directory / "x.zarr"))


@pytest.mark.parametrize(
    ("tensor", "place", "part", "row"),
    [
        ("gate_up_proj_blocks", (3, 40, 2, 5), "gate_proj.weight", 3 * 64 + 20),
        ("gate_up_proj_blocks", (5, 127, 3, 15), "up_proj.weight", 5 * 64 + 63),
        ("gate_up_proj_scales", (0, 1, 0), "up_proj.weight", 0),
        ("gate_up_proj_scales", (2, 0, 3), "gate_proj.weight", 2 * 64),
        ("down_proj_blocks", (1, 17, 1, 0), "down_proj.weight", 1 * 128 + 17),
        ("down_proj_scales", (4, 127, 1), "down_proj.weight", 4 * 128 + 127),
        ("gate_up_proj_bias", (3, 41), "up_proj.bias", 3),
        ("gate_up_proj_bias", (5, 0), "gate_proj.bias", 5),
    ],
)
def test_one_byte_is_found_in_its_row(
    packed: tuple[Path, Path], tmp_path: Path, tensor: str, place: tuple[int, ...], part: str, row: int
) -> None:
    source, store = packed

    def change(array: Any) -> None:
        array[place] = array[place] ^ 3 if array.dtype == np.uint8 else array[place] * -2 + 1

    fault = only_fault(store, changed(source, tmp_path, f"{STEM}.{tensor}", change))
    assert fault.tensor == f"{STEM}.{part}"
    assert fault.kind == ("source_values" if part.endswith("bias") else "source_bytes")
    assert f" at [{row}, " in fault.expected
    assert f"from {STEM}.{tensor.replace('scales', 'blocks')}" in fault.expected


@pytest.mark.parametrize(
    ("tensor", "place", "part", "where"),
    [
        ("gate_up_proj", (3, 100, 41), "up_proj.weight", (3 * 64 + 20, 100)),
        ("gate_up_proj", (0, 7, 126), "gate_proj.weight", (63, 7)),
        ("down_proj", (5, 63, 127), "down_proj.weight", (5 * 128 + 127, 63)),
    ],
)
def test_one_value_is_found_where_it_was_turned_to(
    plain: tuple[Path, Path],
    tmp_path: Path,
    tensor: str,
    place: tuple[int, ...],
    part: str,
    where: tuple[int, int],
) -> None:
    source, store = plain

    def change(array: Any) -> None:
        array[place] = array[place] * -2 + 1

    fault = only_fault(store, changed(source, tmp_path, f"{STEM}.{tensor}", change))
    assert (fault.kind, fault.tensor) == ("source_values", f"{STEM}.{part}")
    assert f" at [{where[0]}, {where[1]}]" in fault.expected
    assert "1 of " in fault.found


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("gate_proj.weight", lambda entry: entry.update(transforms=["join_mxfp4"])),
        ("gate_proj.weight", lambda entry: entry.update(transforms=["deinterleave"])),
        ("down_proj.weight", lambda entry: entry.update(transforms=[])),
        ("up_proj.bias", lambda entry: entry.update(transforms=["transpose", "deinterleave"])),
    ],
)
def test_a_catalog_that_tells_another_layout_is_told_so(
    packed: tuple[Path, Path], tmp_path: Path, key: str, change: Callable[[Any], None]
) -> None:
    source, store = packed
    copy = copied(store, tmp_path)

    def claim(document: Any) -> None:
        change(document["arrays"][f"{STEM}.{key}"])

    edit(copy / "catalog.json", claim, sealed=True)
    found = verify(copy, source)
    faults = {(one.kind, one.tensor) for one in found.faults}
    assert ("source_catalog", f"{STEM}.{key}") in faults


def test_experts_in_fp8_are_turned_as_values(tmp_path: Path) -> None:
    """Codes times scales, once in the source's layout and once in the store's."""
    source = write_safetensors(checkpoint("gpt_oss"), tmp_path / "model", experts="fused")
    rng = np.random.default_rng(0)
    tensors = load_raw(source / "model.safetensors")
    name = f"{STEM}.gate_up_proj"
    tensors[name] = rng.standard_normal((6, 128, 128)).astype(ml_dtypes.float8_e4m3fn)
    tensors[f"{name}_scale_inv"] = rng.uniform(0.5, 2, (6, 4, 4)).astype(np.float32)
    write_weights(tensors, source)
    quantized = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    edit(source / "config.json", lambda config: config.update(quantization_config=quantized))
    found = verify(wvindex.build(source, tmp_path / "x.zarr"), source)
    assert found.faults == ()
    assert found.compared == {"safetensors and ml_dtypes": found.arrays}
