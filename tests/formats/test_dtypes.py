"""bfloat16 and FP8 are Zarr data types; TensorStore and zarr-python read each other's arrays."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from zarr.dtype import data_type_registry

from wvindex.errors import UnsupportedError
from wvindex.formats.dtypes import BFloat16, Float8E4M3FN, Float8E5M2, register_data_types

TYPES = {
    "bfloat16": (BFloat16, ml_dtypes.bfloat16),
    "float8_e4m3fn": (Float8E4M3FN, ml_dtypes.float8_e4m3fn),
    "float8_e5m2": (Float8E5M2, ml_dtypes.float8_e5m2),
}
VALUES = np.arange(-24, 24, dtype=np.float32).reshape(6, 8) / 4


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_data_types()


def tensorstore_spec(path: Path, **more: Any) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, **more}


def test_registering_again_changes_nothing() -> None:
    before = dict(data_type_registry.contents)
    register_data_types()
    assert data_type_registry.contents == before


def test_a_type_registered_by_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_type_registry.contents, "bfloat16", zarr.dtype.Float32)
    register_data_types()
    assert data_type_registry.contents["bfloat16"] is zarr.dtype.Float32


@pytest.mark.parametrize("name", TYPES)
def test_native_and_zarr_types_match(name: str) -> None:
    cls, native = TYPES[name]
    assert data_type_registry.match_dtype(np.dtype(native)) == cls()
    assert data_type_registry.match_json(name, zarr_format=3) == cls()
    assert cls().to_native_dtype() == np.dtype(native)
    assert cls().to_json(zarr_format=3) == name


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16])
def test_other_types_still_match_one_alone(dtype: Any) -> None:
    assert data_type_registry.match_dtype(np.dtype(dtype)).to_native_dtype() == np.dtype(dtype)


@pytest.mark.parametrize("name", TYPES)
def test_zarr_writes_what_it_reads(name: str, tmp_path: Path) -> None:
    values = VALUES.astype(TYPES[name][1])
    array = zarr.create_array(
        tmp_path / "a", shape=(6, 8), chunks=(4, 8), dtype=values.dtype, compressors=None
    )
    array[...] = values
    again = zarr.open_array(tmp_path / "a", mode="r")
    assert again.dtype == values.dtype
    np.testing.assert_array_equal(np.asarray(again[...]).view(np.uint8), values.view(np.uint8))
    np.testing.assert_array_equal(np.asarray(again[1:5:2, 3]), values[1:5:2, 3])
    assert (tmp_path / "a" / "c" / "0" / "0").read_bytes() == values[:4].tobytes()
    codec = json.loads((tmp_path / "a" / "zarr.json").read_text())["codecs"][0]
    assert ("configuration" in codec) == (name == "bfloat16")


def test_tensorstore_reads_bfloat16_that_zarr_writes(tmp_path: Path) -> None:
    values = VALUES.astype(ml_dtypes.bfloat16)
    array = zarr.create_array(
        tmp_path / "a", shape=(6, 8), chunks=(4, 8), dtype=values.dtype, compressors=None
    )
    array[...] = values
    store = tensorstore.open(tensorstore_spec(tmp_path / "a")).result()
    assert store.dtype == tensorstore.bfloat16
    np.testing.assert_array_equal(store.read().result(), values)


def test_zarr_reads_bfloat16_that_tensorstore_writes(tmp_path: Path) -> None:
    values = VALUES.astype(ml_dtypes.bfloat16)
    metadata = {"shape": [6, 8], "data_type": "bfloat16"}
    spec = tensorstore_spec(tmp_path / "a", metadata=metadata, create=True)
    tensorstore.open(spec).result().write(values).result()
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...]), values)


def test_tensorstore_writes_into_a_bfloat16_array_of_zarr(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(6, 8), chunks=(4, 8), dtype=np.dtype(ml_dtypes.bfloat16))
    store = tensorstore.open(tensorstore_spec(tmp_path / "a")).result()
    store[2:4, :].write(VALUES[2:4].astype(ml_dtypes.bfloat16)).result()
    expected = np.zeros((6, 8), ml_dtypes.bfloat16)
    expected[2:4] = VALUES[2:4]
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...]), expected)


def test_big_endian_bfloat16_is_read_by_value(tmp_path: Path) -> None:
    values = VALUES.astype(ml_dtypes.bfloat16)
    codecs = [{"name": "bytes", "configuration": {"endian": "big"}}]
    metadata = {"shape": [6, 8], "data_type": "bfloat16", "codecs": codecs}
    spec = tensorstore_spec(tmp_path / "a", metadata=metadata, create=True)
    tensorstore.open(spec).result().write(values).result()
    read = np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...])
    np.testing.assert_array_equal(read.astype(np.float32), VALUES)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [0.0, -1.5, "NaN"])
def test_fill_values_survive_json(name: str, value: Any) -> None:
    kind = TYPES[name][0]()
    scalar = kind.from_json_scalar(value, zarr_format=3)
    assert scalar.dtype == kind.to_native_dtype()
    assert kind.to_json_scalar(scalar, zarr_format=3) == value


@pytest.mark.parametrize("kind", [BFloat16(), Float8E5M2()])
@pytest.mark.parametrize("value", ["Infinity", "-Infinity"])
def test_infinite_fill_values_survive_json(kind: BFloat16 | Float8E5M2, value: str) -> None:
    scalar = kind.from_json_scalar(value, zarr_format=3)
    assert math.isinf(float(scalar.item()))
    assert kind.to_json_scalar(scalar, zarr_format=3) == value


def test_hexadecimal_fill_values_are_bits() -> None:
    assert BFloat16().from_json_scalar("0x3fc0", zarr_format=3) == ml_dtypes.bfloat16(1.5)
    assert Float8E4M3FN().from_json_scalar("0x3c", zarr_format=3) == ml_dtypes.float8_e4m3fn(1.5)
    odd_nan = BFloat16().from_json_scalar("0x7fc1", zarr_format=3)
    assert BFloat16().to_json_scalar(odd_nan, zarr_format=3) == "0x7fc1"


@pytest.mark.parametrize("value", ["0x3fc", "zero", None, True, [0]])
def test_other_fill_values_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        BFloat16().from_json_scalar(value, zarr_format=3)


def test_zarr_v2_has_no_such_types() -> None:
    with pytest.raises(UnsupportedError, match="bfloat16"):
        BFloat16().to_json(zarr_format=2)
    with pytest.raises(ValueError, match="v2"):
        BFloat16.from_json("bfloat16", zarr_format=2)
