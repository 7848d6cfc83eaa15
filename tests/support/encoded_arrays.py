"""Zarr arrays of encoded rows, written by hand: metadata, chunk files, and the values that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.support.packed import random_rows, reference_decode
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.store.codec import codec_metadata

FP8 = with_scale_block(ENCODINGS["F8_E4M3"], (4, 8))


@dataclass(frozen=True)
class Written:
    """An array on disk and the values it holds."""

    path: Path
    values: npt.NDArray[np.float32]


def write_array(
    path: Path,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    codecs: list[dict[str, Any]],
    chunks: dict[str, bytes],
    **changes: Any,
) -> None:
    """Write a Zarr v3 array by hand."""
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": codecs,
        "attributes": {},
    }
    path.mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps(metadata | changes))
    for name, data in chunks.items():
        file = path / "c" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def finite_rows(name: str, n_rows: int, n_blocks: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random rows without NaN, so that plain comparisons hold."""
    return random_rows(name, n_rows, n_blocks, seed) & np.uint8(0x3B)


def ggml_matrix(path: Path, name: str = "Q4_K", rows: int = 22, chunk: int = 8) -> Written:
    """A matrix of 3 superblocks a row whose last chunk is short."""
    encoding = ENCODINGS[name]
    n_blocks = 768 // encoding.block_size
    raw = finite_rows(name, rows, n_blocks)
    edge = rows % chunk or chunk
    chunks = {f"{i // chunk}/0": raw[i : i + chunk].tobytes() for i in range(0, rows, chunk)}
    write_array(path, (rows, 768), (chunk, 768), codec_metadata(encoding, edge), chunks)
    return Written(path, reference_decode(raw, name))


def ggml_stack(path: Path) -> Written:
    """Three matrices of 11 rows, in chunks of 4 rows: the last of each is short."""
    raw = finite_rows("Q6_K", 33, 2)
    chunks = {
        f"{expert}/{i // 4}/0": raw[expert * 11 + i : expert * 11 + min(i + 4, 11)].tobytes()
        for expert in range(3)
        for i in range(0, 11, 4)
    }
    write_array(path, (3, 11, 512), (1, 4, 512), codec_metadata(ENCODINGS["Q6_K"], 3), chunks)
    return Written(path, reference_decode(raw, "Q6_K").reshape(3, 11, 512))


def fp8_chunk(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32]) -> bytes:
    return codes.tobytes() + scales.astype("<f4").tobytes()


def fp8_values(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    spread = scales.repeat(4, axis=-2)[..., : codes.shape[-2], :].repeat(8, axis=-1)[..., : codes.shape[-1]]
    values = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * spread
    return np.asarray(values, np.float32)


def fp8_array(path: Path, experts: int, rows: int, chunk: int) -> Written:
    """One matrix, or a stack, of 20 columns: codes, then the chunk's scales."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 0x78, (experts, rows, 20), np.uint8)
    scales = rng.random((experts, -(-rows // 4), 3), np.float32)
    chunks = {
        f"{expert}/{i // chunk}/0": fp8_chunk(
            codes[expert, i : i + chunk], scales[expert, i // 4 : -(-min(i + chunk, rows) // 4)]
        )
        for expert in range(experts)
        for i in range(0, rows, chunk)
    }
    edge = rows % chunk or chunk
    values = fp8_values(codes, scales)
    if experts > 1:
        write_array(path, (experts, rows, 20), (1, chunk, 20), codec_metadata(FP8, edge), chunks)
        return Written(path, values)
    chunks = {name.removeprefix("0/"): data for name, data in chunks.items()}
    write_array(path, (rows, 20), (chunk, 20), codec_metadata(FP8, edge), chunks)
    return Written(path, values[0])


ARRAYS: dict[str, Callable[[Path], Written]] = {
    "ggml-matrix": ggml_matrix,
    "ggml-matrix-without-edge": lambda path: ggml_matrix(path, "Q8_0", 16, 8),
    "ggml-one-chunk": lambda path: ggml_matrix(path, "IQ4_XS", 5, 5),
    "ggml-stack": ggml_stack,
    "fp8-matrix": lambda path: fp8_array(path, 1, 22, 8),
    "fp8-matrix-short-block": lambda path: fp8_array(path, 1, 21, 8),
    "fp8-matrix-without-edge": lambda path: fp8_array(path, 1, 16, 8),
    "fp8-one-chunk": lambda path: fp8_array(path, 1, 7, 7),
    "fp8-stack": lambda path: fp8_array(path, 3, 10, 4),
}
