"""Other people's Zarr readers open a store: plain arrays without wvindex, encoded ones through its codecs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from zarr.core.metadata import ArrayV3Metadata

from tests.support.arrays import MemoryArray, memory_array, same, write_store
from wvindex.formats.dtypes import register_data_types

ZARRS_OWN = [
    memory_array("model.layers.0.f32", (30, 24), "F32"),
    memory_array("model.layers.11.f16", (3, 7, 24), "F16"),
    memory_array("vector.weight", (17,), "F32"),
    memory_array("scalar", (), "F32"),
    memory_array("Odd/NAME", (5, 5), "I32"),
    memory_array("bool", (9, 3), "BOOL"),
    memory_array("conv", (6, 2, 3, 4), "F32"),
    memory_array("empty", (0, 4), "F32"),
]
REGISTERED = [memory_array("bf16", (30, 24), "BF16"), memory_array("fp8_plain", (30, 24), "F8_E4M3")]
ENCODED = [
    memory_array("q8_0", (11, 64), "Q8_0"),
    memory_array("q4_k", (3, 7, 512), "Q4_K"),
    memory_array("q8_0_4d", (2, 3, 5, 32), "Q8_0"),
    memory_array("q8_0_vector", (64,), "Q8_0"),
    memory_array("fp8", (2, 11, 12), "FP8"),
    memory_array("fp8_vector", (12,), "FP8"),
]
ALL = [*ZARRS_OWN, *REGISTERED, *ENCODED]

READ_ALL = """
import json, sys, warnings
import numpy as np, zarr
warnings.simplefilter("error")
root, paths, out, parts = json.loads(sys.argv[1])
group = zarr.open_group(root, mode="r")
assert set(group["layers"].group_keys()) == {"0", "11"}
assert set(group["layers/0"].array_keys()) == {"f32"}
found = {}
for i, path in enumerate(paths):
    array = group[path]
    found[f"{i}"] = array[...]
    found[f"{i}part"] = array[1:4] if array.ndim and array.shape[0] > 4 else array[...]
np.savez(out, **found)
assert ("wvindex" in sys.modules) == parts, "wvindex imported: " + str("wvindex" in sys.modules)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("interop") / "x.zarr", ALL, chunk_bytes=400)


def paths(store: Path) -> dict[str, str]:
    catalog = json.loads((store / "catalog.json").read_text())
    return {key: entry["path"] for key, entry in catalog["arrays"].items()}


@pytest.mark.parametrize(
    ("arrays", "imports_wvindex"), [(ZARRS_OWN, False), (ENCODED, True)], ids=["plain", "encoded"]
)
def test_zarr_python_alone(
    store: Path, tmp_path: Path, arrays: list[MemoryArray], imports_wvindex: bool
) -> None:
    where = paths(store)
    wanted = [where[array.spec.key] for array in arrays]
    arguments = json.dumps([str(store), wanted, str(tmp_path / "out.npz"), imports_wvindex])
    subprocess.run([sys.executable, "-c", READ_ALL, arguments], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "out.npz")
    for i, array in enumerate(arrays):
        assert same(found[f"{i}"], array.values), array.spec.key
        part = array.values[1:4] if array.values.ndim and array.values.shape[0] > 4 else array.values
        assert same(found[f"{i}part"], part), array.spec.key


@pytest.mark.parametrize("array", REGISTERED, ids=lambda array: array.spec.key)
def test_zarr_python_with_the_data_types(store: Path, array: MemoryArray) -> None:
    register_data_types()
    found = zarr.open_array(store / paths(store)[array.spec.key], mode="r")
    assert same(found[...], array.values)


@pytest.mark.parametrize("imports", ["import wvindex, zarr", "import zarr, wvindex"])
def test_importing_wvindex_is_enough_for_zarr_python(store: Path, imports: str) -> None:
    names = [str(store / paths(store)[array.spec.key]) for array in REGISTERED]
    script = f"{imports}\nfor path in {names!r}: print(zarr.open_array(path, mode='r')[0, 0])"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


TENSORSTORE = [a for a in ALL if a.spec.encoding.is_plain and a.spec.key not in {"fp8_plain"}]


@pytest.mark.parametrize("array", TENSORSTORE, ids=lambda array: array.spec.key)
def test_tensorstore(store: Path, array: MemoryArray) -> None:
    found = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / paths(store)[array.spec.key])}}
    ).result()
    assert same(found.read().result(), array.values)


@pytest.mark.parametrize("array", ALL, ids=lambda array: array.spec.key)
def test_every_document_is_zarrs(store: Path, array: MemoryArray) -> None:
    register_data_types()
    document = json.loads((store / paths(store)[array.spec.key] / "zarr.json").read_text())
    metadata = ArrayV3Metadata.from_dict(document)
    assert metadata.shape == array.values.shape
    assert metadata.attributes["wvindex"]["key"] == array.spec.key
