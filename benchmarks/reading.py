"""Whole tensors: packed ones beside the bare kernel, plain ones beside other readers, and products."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy
import zarr
from numpy.typing import NDArray

import wvindex as wv
from benchmarks.harness import SPIN, Absent, Bench, Contender
from benchmarks.models import Llama, write_llama
from benchmarks.peers import tensorstore
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.kernels import decode_parallel

KEY = "model.layers.0.mlp.down_proj.weight"
GGUF_NAME = "blk.0.ffn_down.weight"
ARRAY = "layers/0/mlp.down_proj.weight"
ALONE = "wvindex, one thread"
READ, BARE, KERNEL = "wvindex, a store", "wvindex, the GGUF", "bare kernel"


def one_layer(quick: bool) -> Llama:
    """Give a model with one layer, whose down-projection is 4096x14336."""
    return Llama(256, 512, 1, 4, 2, 256) if quick else Llama(4096, 14336, 1, 32, 8, 256)


def run(bench: Bench) -> None:
    """Read a matrix in Q4_K, multiply by it, and read a matrix of float32."""
    source = write_llama(bench.scratch / "packed.gguf", one_layer(bench.quick))
    store = wv.build(source, bench.scratch / "packed.zarr")
    _packed(bench, source, store)
    _products(bench, store)
    _plain(bench, wv.build(source, bench.scratch / "plain.zarr", dtype="float32"))


def _packed(bench: Bench, source: Path, store: Path) -> None:
    with wv.open(store) as db, wv.open(store, check="never") as unchecked, wv.open(source) as bare:
        w = db[KEY]
        out = np.zeros(w.shape, np.float32)
        raw, encoding = w.raw(), ENCODINGS[w.encoding]
        tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == GGUF_NAME)
        array = zarr.open_array(store, path=ARRAY, mode="r")
        comparison = bench.compare(
            f"{'x'.join(map(str, w.shape))} {w.encoding}",
            {
                READ: lambda: w.read(out),
                "wvindex, unchecked": lambda: unchecked[KEY].read(out),
                BARE: lambda: bare[KEY].read(out),
                "wvindex, new array": lambda: w[:],
                KERNEL: lambda: decode_parallel(raw, encoding, out),
                "gguf package": lambda: gguf.dequantize(tensor.data, tensor.tensor_type),
                "zarr-python": lambda: array[:],
            },
            repeat=11,
            nbytes=out.nbytes,
        )
    bench.read_speed(comparison, READ, KERNEL, bar="read")
    bench.read_speed(comparison, BARE, KERNEL, bar="read")
    for peer in ("gguf package", "zarr-python"):
        bench.read_speed(comparison, "wvindex, new array", peer)


def _products(bench: Bench, store: Path) -> None:
    """Multiply by the packed matrix, without ever holding it in float32, beside NumPy with it at hand."""
    with wv.open(store) as db:
        w = db[KEY]
        dense = w[:]
        for n_rows in (1, 256):
            x = np.random.default_rng(0).standard_normal((n_rows, w.shape[1]), np.float32)
            comparison = bench.compare(
                f"product with {n_rows} row{'s' * (n_rows > 1)} of x",
                {
                    "Tensor.matmul": partial(w.matmul, x),
                    "NumPy, float32 in memory": partial(np.matmul, x, dense.T),
                    "decoding first": partial(_decode_and_multiply, w, x),
                },
                repeat=11,
                pause=SPIN,
            )
            for peer in ("NumPy, float32 in memory", "decoding first"):
                bench.read_speed(comparison, "Tensor.matmul", peer)


def _decode_and_multiply(w: wv.Tensor, x: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = x @ w[:].T
    return values


def _plain(bench: Bench, store: Path) -> None:
    """Read a matrix of float32, of files that are open: some readers use one thread, so wvindex does too."""
    with wv.open(store) as db, wv.open(store, check="never") as unchecked:
        w = db[KEY]
        values = w[:]
        safe, flat = bench.scratch / "plain.safetensors", bench.scratch / "plain.f32"
        safetensors.numpy.save_file({KEY: values}, safe)
        values.tofile(flat)
        mapped = np.memmap(flat, np.float32, "r", shape=values.shape)
        many = f"wvindex, {bench.threads} threads"
        peers: dict[str, Contender | Absent] = {"TensorStore, its own threads": _tensorstore_read(store)}
        with safetensors.safe_open(safe, "numpy") as file:
            peers["safetensors, one thread"] = lambda: file.get_tensor(KEY)
            peers["numpy memmap, copied, one thread"] = lambda: np.array(mapped)
            comparison = bench.compare(
                f"{'x'.join(map(str, w.shape))} F32",
                {
                    many: lambda: w[:],
                    f"{many}, unchecked": lambda: unchecked[KEY][:],
                    ALONE: lambda: _one_thread(lambda: w[:]),
                    f"{ALONE}, unchecked": lambda: _one_thread(lambda: unchecked[KEY][:]),
                    **peers,
                },
                repeat=7,
                nbytes=values.nbytes,
            )
    for peer in peers:
        for label in (many, ALONE):
            bench.read_speed(comparison, label, peer)


def _one_thread(work: Contender) -> object:
    """Work as ``WVINDEX_THREADS=1`` has it."""
    before = os.environ.get("WVINDEX_THREADS")
    os.environ["WVINDEX_THREADS"] = "1"
    try:
        return work()
    finally:
        del os.environ["WVINDEX_THREADS"]
        if before is not None:
            os.environ["WVINDEX_THREADS"] = before


def _tensorstore_read(store: Path) -> Callable[[], Any] | Absent:
    found = tensorstore()
    if isinstance(found, Absent):
        return found
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store / ARRAY}/"}}
    array = found.open(spec, read=True, open=True).result()
    return lambda: array.read().result()
