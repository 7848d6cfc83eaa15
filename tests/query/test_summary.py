"""The summary of a weight database counts what is there."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np

import wvindex
from tests.support.cli import EXAMPLE
from tests.support.golden import COMMITTED
from tests.support.safetensors_writer import write_weights
from tests.support.stores import Stores
from wvindex.query.summary import EncodingCount, NonFinite, summarize


def test_a_bare_files_counts_are_the_gguf_packages() -> None:
    tensors = gguf.GGUFReader(EXAMPLE).tensors
    with wvindex.open(EXAMPLE) as db:
        summary = summarize(db)
    assert summary.arrays == len(tensors)
    assert summary.parameters == sum(int(tensor.n_elements) for tensor in tensors)
    assert summary.nbytes == sum(int(tensor.n_bytes) for tensor in tensors)
    assert summary.bits_per_weight == 8 * summary.nbytes / summary.parameters
    assert summary.exactness == {"bit": len(tensors)}


def test_the_histogram_has_every_encoding() -> None:
    with (
        np.load(COMMITTED / "type-zoo.expected.npz") as expected,
        wvindex.open(COMMITTED / "type-zoo.gguf") as db,
    ):
        counts = summarize(db).encodings
        assert sum(count.arrays for count in counts) == len(expected.files)
    for count in counts:
        assert count.parameters == count.arrays * 6 * 768
        known = getattr(gguf.GGMLQuantizationType, count.encoding, None)
        if known is not None:
            block_size, type_size = gguf.GGML_QUANT_SIZES[known]
            assert count.nbytes == count.parameters // block_size * type_size
    assert [count.nbytes for count in counts] == sorted((count.nbytes for count in counts), reverse=True)


def test_scales_count_as_bytes_not_as_parameters(stores: Stores) -> None:
    with wvindex.open(stores.safetensors("deepseek_v3-fp8")) as db:
        counts = {count.encoding: count for count in summarize(db).encodings}
    fp8 = counts["F8_E4M3"]
    assert fp8.parameters < fp8.nbytes < fp8.parameters * 1.01


def test_unmapped_and_nonfinite_are_named(tmp_path: Path) -> None:
    odd = np.array([[1, np.nan, np.nan], [np.inf, 0, -np.inf]], ml_dtypes.bfloat16)
    write_weights({"odd": odd, "even": np.zeros(4, np.float32)}, tmp_path)
    with wvindex.open(tmp_path) as bare:
        assert summarize(bare).unmapped == ("even", "odd")
        assert summarize(bare).nonfinite is None
    with wvindex.open(wvindex.build(tmp_path, tmp_path / "odd.zarr")) as db:
        summary = summarize(db)
    assert summary.nonfinite == (NonFinite(key="odd", nan=2, inf=2),)
    assert summary.encodings == (
        EncodingCount(encoding="F32", arrays=1, parameters=4, nbytes=16),
        EncodingCount(encoding="BF16", arrays=1, parameters=6, nbytes=12),
    )


def test_linked_arrays_and_their_bytes_are_counted(stores: Stores) -> None:
    source = stores.safetensors("qwen2")
    with wvindex.open(stores.build(source, link=True)) as db:
        summary = summarize(db)
        assert (summary.linked, summary.linked_nbytes) == (len(db), summary.nbytes)
        assert summary.nonfinite == ()
    for path in (source, stores.build(source)):
        with wvindex.open(path) as db:
            assert (summarize(db).linked, summarize(db).linked_nbytes) == (0, 0)


def test_multi_token_prediction_layers_stand_apart(stores: Stores) -> None:
    with wvindex.open(stores.safetensors("deepseek_v3")) as db:
        summary = summarize(db)
    assert (summary.layers, summary.mtp_layers) == (3, (3,))


def test_json_holds_every_number(stores: Stores) -> None:
    with wvindex.open(stores.build(stores.safetensors("llama"))) as db:
        summary = summarize(db)
    loaded = json.loads(json.dumps(summary.to_json()))
    assert loaded["parameters"] == summary.parameters
    assert loaded["bits_per_weight"] == summary.bits_per_weight == 16.0
    assert loaded["encodings"][0]["encoding"] == "BF16"
    assert loaded["nonfinite"] == []
