"""Random arrays in memory, as they are stored and as others decode them; and stores made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import gguf
import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.sources.base import FileFingerprint
from wvindex.store.catalog import Catalog, LedgerEntry
from wvindex.store.writer import StoreWriter

SCALE_BLOCK: Final = (3, 5)
"""Small and odd: most shapes have short blocks at the edges."""

CONFIG: Final = ModelConfig(model_type="llama", family="llama", hidden_size=256, num_hidden_layers=2)


@dataclass(frozen=True)
class MemoryArray:
    """One array: its encoded rows (n_rows, row_bytes), its scales, and the values that they mean.

    It is a RowReader of itself.
    """

    spec: ArraySpec
    raw: NDArray[np.uint8]
    scales: NDArray[np.float32]
    values: NDArray[Any]

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        first, last = span if span is not None else (0, self.raw.shape[1])
        out[:] = self.raw[start:stop, first:last].tobytes()

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        out[:] = self.scales[start:stop].tobytes()


def memory_array(key: str, shape: tuple[int, ...], encoding: str, seed: int = 0, **spec: Any) -> MemoryArray:
    """Make random values; `encoding` is a name, or ``"FP8"`` for E4M3 with scales."""
    table = ENCODINGS["F8_E4M3"] if encoding == "FP8" else ENCODINGS[encoding]
    if encoding == "FP8":
        table = with_scale_block(table, SCALE_BLOCK)
    given = {"exactness": "bit", "sources": (f"source.{key}",)} | spec
    array = ArraySpec(key=key, shape=shape, encoding=table, **given)
    rng = np.random.default_rng(seed)
    if table.scale_block is not None:
        return _scaled(array, rng)
    raw = _plain(array, rng) if table.is_plain else _packed(array, rng)
    values = raw.view(table.logical_dtype).reshape(shape) if table.is_plain else _decode_packed(raw, array)
    return MemoryArray(array, raw, np.empty((0, 0), np.float32), values)


def _plain(spec: ArraySpec, rng: np.random.Generator) -> NDArray[np.uint8]:
    dtype = spec.encoding.logical_dtype
    values = rng.standard_normal((spec.n_rows, spec.row_values)) * 50
    with np.errstate(all="ignore"):
        stored = values.astype(dtype)
    return stored.view(np.uint8).reshape(spec.n_rows, spec.row_bytes)


def _packed(spec: ArraySpec, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make random blocks whose float16 scales are sane."""
    n_blocks = spec.n_rows * spec.row_bytes // spec.encoding.type_size
    blocks = rng.integers(0, 256, (n_blocks, spec.encoding.type_size), np.uint8)
    n_scales = {"Q8_0": 1, "Q4_K": 2}[spec.encoding.name]
    blocks[:, : 2 * n_scales] = rng.random((n_blocks, n_scales)).astype(np.float16).view(np.uint8)
    return blocks.reshape(spec.n_rows, spec.row_bytes)


def _decode_packed(raw: NDArray[np.uint8], spec: ArraySpec) -> NDArray[np.float32]:
    if not raw.size:
        return np.empty(spec.shape, np.float32)
    kind = gguf.GGMLQuantizationType[spec.encoding.name]
    return np.asarray(gguf.dequantize(raw, kind), np.float32).reshape(spec.shape)


def _scaled(spec: ArraySpec, rng: np.random.Generator) -> MemoryArray:
    raw = (rng.standard_normal((spec.n_rows, spec.row_values)) * 50).astype(ml_dtypes.float8_e4m3fn)
    assert spec.scale_shape is not None
    scales = rng.random(spec.scale_shape).astype(np.float32)
    block_rows, block_columns = SCALE_BLOCK
    per_matrix = scales.reshape(spec.n_matrices, -(-spec.matrix_rows // block_rows), scales.shape[1])
    wide = per_matrix.repeat(block_rows, 1)[:, : spec.matrix_rows]
    wide = wide.repeat(block_columns, 2)[:, :, : spec.row_values].reshape(raw.shape)
    values = (raw.astype(np.float32) * wide).reshape(spec.shape)
    return MemoryArray(spec, raw.view(np.uint8), scales, values)


ENCODING_NAMES: Final = ("F32", "F16", "BF16", "F8_E4M3", "I32", "BOOL", "Q8_0", "Q4_K", "FP8")


@st.composite
def shapes(draw: st.DrawFn, encoding: str) -> tuple[int, ...]:
    """Draw a shape of none to three dimensions, of which some may be empty."""
    blocks = 1 if encoding == "FP8" else ENCODINGS[encoding].block_size
    n_dims = draw(st.integers(0 if blocks == 1 else 1, 3))
    if n_dims == 0:
        return ()
    columns = blocks * draw(st.integers(1, 3)) if blocks > 1 else draw(st.integers(0, 24))
    outer = [draw(st.integers(0, 4))] if n_dims == 3 else []
    return (*outer, *([draw(st.integers(0, 17))] if n_dims > 1 else []), columns)


@st.composite
def memory_arrays(draw: st.DrawFn, key: str = "x") -> MemoryArray:
    """Draw an array of any encoding and shape."""
    encoding = draw(st.sampled_from(ENCODING_NAMES))
    return memory_array(key, draw(shapes(encoding)), encoding, draw(st.integers(0, 1 << 30)))


def catalog_of(entries: Mapping[str, Any], **changes: Any) -> Catalog:
    """Make a catalog about some entries."""
    catalog = Catalog(
        config=CONFIG,
        generator="wvindex test",
        sources=(FileFingerprint(name="m.gguf", size=10, mtime_ns=11, header_sha256="ab"),),
        source_format="gguf",
        options={"mla": "absorb"},
        source_config={"general.architecture": "llama", "list": [1, 2.5]},
        ledger=tuple(
            LedgerEntry(tensor=name, file="m.gguf", encoding="F32", shape=entry.spec.shape, keys=(key,))
            for key, entry in entries.items()
            for name in entry.spec.sources
        ),
        arrays=entries,
    )
    return replace(catalog, **changes)


def write_store(
    path: Path,
    arrays: Iterable[MemoryArray],
    *,
    chunk_bytes: int = 256,
    workspace: int = 1 << 20,
    **catalog: Any,
) -> Path:
    """Write a finished store of `arrays`."""
    with StoreWriter(path, chunk_bytes=chunk_bytes) as writer:
        entries = {a.spec.key: writer.write_array(a.spec, a, workspace=workspace) for a in arrays}
        writer.finish(catalog_of(entries, **catalog))
    return path


def same(found: Any, expected: Any) -> bool:
    """Tell whether two results have the same type, shape, dtype and bits (any NaN equals any)."""
    found, expected = np.asarray(found), np.asarray(expected)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return False
    if found.dtype.kind in "bi":
        return bool(np.array_equal(found, expected))
    return bool(np.array_equal(found.astype(np.float64), expected.astype(np.float64), equal_nan=True))
