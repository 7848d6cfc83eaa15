"""Small builds of many steps, and what stands on the disk when one has been interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import ml_dtypes
import numpy as np

import wvindex
from tests.support import configs
from tests.support.checkpoints import made
from tests.support.disk import Disk, Hook
from tests.support.gguf_writer import write_gguf
from tests.support.recipes import Recipe
from tests.support.safetensors_writer import write_weights
from wvindex import building
from wvindex.store import commits, durable
from wvindex.store.checksum import crc32c
from wvindex.store.writer import StoreWriter

GROUP_FILES: Final = 5
GROUP_BYTES: Final = 32 << 10
CHUNK_BYTES: Final = 4096

SMALL_RECIPE: Final = Recipe(
    "interrupted",
    1,
    configs.deepseek_v3(
        first_k_dense_replace=0,
        hidden_size=32,
        intermediate_size=32,
        kv_lora_rank=32,
        moe_intermediate_size=32,
        n_group=1,
        n_routed_experts=2,
        num_attention_heads=2,
        num_experts_per_tok=1,
        num_hidden_layers=1,
        num_key_value_heads=2,
        q_lora_rank=32,
        topk_group=1,
    ),
)
"""One layer: latent attention, and experts."""


def write_latent_model(path: Path) -> Path:
    """Write a GGUF file of one layer: latent attention, stacked experts, matrices packed as Q8_0."""
    return write_gguf(made(SMALL_RECIPE), path, dtype="Q8_0")[0]


def write_plain_model(directory: Path, *, seed: int = 0, rows: int = 100, shards: int = 1) -> Path:
    """Write a safetensors checkpoint that no family names: four arrays, two of them of several chunks."""
    rng = np.random.default_rng(seed)
    tensors = {
        "a": rng.standard_normal((rows, 32)).astype(np.float32),
        "b": rng.standard_normal(7).astype(np.float32),
        "model.layers.0.c": rng.standard_normal((3, 16, 64)).astype(ml_dtypes.bfloat16),
        "d": rng.integers(0, 255, (4, 4)).astype(np.uint8),
    }
    directory.mkdir(parents=True)
    write_weights(tensors, directory, shards=shards)
    return directory


@contextmanager
def small_steps() -> Iterator[None]:
    """Have builds write small chunks, and commit a few at a time."""
    with (
        mock.patch.object(building, "StoreWriter", partial(StoreWriter, chunk_bytes=CHUNK_BYTES)),
        mock.patch.object(commits, "GROUP_FILES", GROUP_FILES),
        mock.patch.object(commits, "GROUP_BYTES", GROUP_BYTES),
        mock.patch.object(
            durable, "SYNCS_AT_ONCE", 2
        ),  # starting eight threads takes longer than such a build
    ):
        yield


def build(
    source: Path, out: Path, *, before: Hook | None = None, after: Hook | None = None, **options: Any
) -> Disk:
    """Build in small steps, on a disk that tells what was done to it."""
    with small_steps(), Disk(out.parent, before, after) as disk:
        wvindex.build(source, out, **options)
    return disk


def tree(root: Path) -> dict[str, bytes | None]:
    """Give everything below a directory: the bytes of files, None for all else."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def chunks_of(store: Path | dict[str, Any]) -> set[str]:
    """Give the paths of a store's chunks."""
    found = tree(store) if isinstance(store, Path) else store
    return {path for path in found if is_chunk(path)}


def is_chunk(path: str) -> bool:
    """Whether a path is that of a chunk."""
    return path.rpartition("/")[2].startswith("c.")


def chunks_written(disk: Disk, staging: Path) -> list[str]:
    """Give the paths, below the store, of the chunks whose files were created."""
    made_files = [operation.path for operation in disk.seen if operation.kind == "create"]
    return [os.path.relpath(path, staging / "store") for path in made_files if is_chunk(path)]


def journal_lines(data: bytes) -> list[Any]:
    """Read a journal, by its definition: lines of a checksum and JSON, up to the first that is not whole."""
    found = []
    for line in data.split(b"\n")[:-1]:
        digits, _, text = line.partition(b" ")
        if digits != b"%08x" % crc32c([text]):
            break
        found.append(json.loads(text))
    return found


def journaled(staging: Path) -> set[str]:
    """Give the chunks that an interrupted build need not write again."""
    journal, store = staging / "journal", staging / "store"
    if not journal.exists() or not store.is_dir():
        return set()
    lines = journal_lines(journal.read_bytes())
    if not lines or lines[0] != [store.stat().st_ino]:
        return set()
    return {fields[0] for fields in lines[1:]}
