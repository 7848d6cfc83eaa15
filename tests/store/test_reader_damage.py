"""Damage to a chunk is found on every way to its values: none gives a wrong number."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.arrays import memory_array, same, write_store
from wvindex.errors import ChecksumError, ChunkError, UnreadableSource, UnsafePath, WvindexError
from wvindex.formats.arrays import Heads
from wvindex.infer.weights import Weights
from wvindex.query import gather, tiles
from wvindex.query.database import Store, open_store
from wvindex.query.lazy import Tensor
from wvindex.store.reader import open_catalog

ARRAYS: Final = {
    "F32": memory_array("model.layers.0.f32", (29, 64), "F32", heads=Heads(axis=1, count=2)),
    "BF16": memory_array("model.layers.0.bf16", (29, 128), "BF16"),
    "Q4_K": memory_array("model.layers.0.q4_k", (29, 512), "Q4_K"),
    "Q8_0": memory_array("model.layers.0.q8_0", (29, 256), "Q8_0", heads=Heads(axis=1, count=4)),
    "FP8": memory_array("model.layers.0.fp8", (29, 120), "FP8"),
}
"""Each in several chunks, of which the last is short: of plain ones, padded."""

Read = Callable[[Tensor], Any]

WHOLE: Final[dict[str, Read]] = {
    "index": lambda w: w[:],
    "ellipsis": lambda w: w[...],
    "rows in reverse": lambda w: w[::-1],
    "all rows by number": lambda w: w[list(range(29))],
    "every other column": lambda w: w[:, ::2],
    "columns by number": lambda w: w[:, [*range(0, w.shape[1], 3), w.shape[1] - 1]],
    "all columns but one": lambda w: w[:, 1:],
    "asarray": np.asarray,
    "read": lambda w: w.read(),
    "read as float16": lambda w: w.read(dtype="float16"),
    "read into a buffer": lambda w: w.read(np.empty(w.shape, w.dtype)),
    "read into columns": lambda w: w.read(np.empty(w.shape, w.dtype, order="F")),
    "raw": lambda w: w.raw(),
    "encoded": lambda w: w.encoded(),
    "product with one": lambda w: w.matmul(np.ones(w.shape[1], np.float32)),
    "product with many": lambda w: w.matmul(np.ones((40, w.shape[1]), np.float32)),
}
"""Ways that take every row of every chunk."""

PART: Final[dict[str, Read]] = {
    "one row": lambda w: [w[i] for i in range(29)],
    "one value": lambda w: [w[i, j] for i in range(29) for j in (0, -1)],
    "one column": lambda w: [w[:, j] for j in (0, w.shape[1] // 2, -1)],
    "a few columns": lambda w: w[:, 3:5],
    "rows by number": lambda w: w[[0, 5, 11, 17, 23, 28]],
    "every third row": lambda w: [w[i::3] for i in range(3)],
    "some rows": lambda w: [w.read(rows=(i, i + 1)) for i in range(29)],
    "raw rows": lambda w: [w.raw(rows=(i, i + 1)) for i in range(29)],
    "iteration": list,
}
"""Ways that take parts of chunks, and of every chunk one."""


def chunks(store: Path, name: str) -> list[Path]:
    entry = open_catalog(store).arrays[ARRAYS[name].spec.key]
    return [store / entry.path / entry.grid.name(index) for index in range(entry.grid.n_chunks)]


def flip(path: Path, place: int) -> None:
    """Flip a bit in place: the file stays the one that may be open."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store that every test leaves as it was."""
    return write_store(tmp_path_factory.mktemp("sound") / "x.zarr", ARRAYS.values(), chunk_bytes=1000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the same arrays in larger chunks."""
    return write_store(tmp_path_factory.mktemp("large") / "x.zarr", ARRAYS.values(), chunk_bytes=4000)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """Give a copy, to damage for good."""
    return Path(shutil.copytree(sound, tmp_path / "x.zarr"))


def flips(store: Path, name: str, n: int) -> Iterator[Path]:
    """Flip a bit at `n` places of an array's first chunk, of one between and of the last; give each chunk.

    The first byte is one, and the last: of a scale, of what pads a short chunk, or of a row.
    """
    every = chunks(store, name)
    for path in (every[0], every[len(every) // 2], every[-1]):
        for place in np.linspace(0, path.stat().st_size - 1, n).astype(int).tolist():
            flip(path, place)
            yield path
            flip(path, place)


def require_found(db: Store, name: str, path: Path, read: Read) -> None:
    key = ARRAYS[name].spec.key
    with pytest.raises(ChecksumError) as caught:
        read(db[key])
    error = caught.value
    assert (error.kind, error.tensor, error.file) == ("checksum", key, str(path))
    assert str(error.expected).startswith("crc32c ")
    assert error.found is not None


@pytest.mark.parametrize("way", WHOLE)
def test_a_flipped_bit_anywhere_in_a_chunk_that_is_read_whole(sound: Path, way: str) -> None:
    with open_store(sound) as db:
        for name, array in ARRAYS.items():
            for path in flips(sound, name, 4):
                require_found(db, name, path, WHOLE[way])
            WHOLE[way](db[array.spec.key])


@pytest.mark.parametrize("way", PART)
def test_a_flipped_bit_anywhere_in_a_chunk_of_which_a_part_is_read(sound: Path, way: str) -> None:
    with open_store(sound, check="always") as db:
        for name, array in ARRAYS.items():
            for path in flips(sound, name, 3):
                require_found(db, name, path, PART[way])
            PART[way](db[array.spec.key])


@pytest.mark.parametrize("check", ["chunks", "always"])
@pytest.mark.parametrize("way", WHOLE)
def test_a_chunk_that_is_too_large_to_be_held_is_verified_all_the_same(
    large: Path, way: str, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "MAX_CHUNK_BYTES", 1000)
    monkeypatch.setattr(tiles, "TILE_BYTES", 700)
    monkeypatch.setattr(gather, "TILE_VALUES", 300)
    with open_store(large, check=check) as db:
        for name, array in ARRAYS.items():
            for path in flips(large, name, 3):
                require_found(db, name, path, WHOLE[way])
            WHOLE[way](db[array.spec.key])


@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_parts_of_large_chunks_are_numpys(large: Path, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MAX_CHUNK_BYTES", 1000)
    monkeypatch.setattr(tiles, "TILE_BYTES", 700)
    monkeypatch.setattr(gather, "TILE_VALUES", 300)
    with open_store(large, check=check) as db:
        for array in ARRAYS.values():
            for index in (np.s_[:], np.s_[:, ::2], np.s_[3:, 1:], np.s_[::2], np.s_[5:27, ::-3]):
                assert same(db[array.spec.key][index], array.values[index])


def test_scales_and_heads_of_columns_are_parts(sound: Path) -> None:
    with open_store(sound, check="always") as db:
        for path in flips(sound, "FP8", 3):
            require_found(db, "FP8", path, lambda w: w.scales())
        for name in ("F32", "Q8_0"):
            for path in flips(sound, name, 2):
                require_found(db, name, path, lambda w: w.head(0)[:])
                require_found(db, name, path, lambda w: w.head(1).read(dtype="float16"))


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_the_forward_pass_reads_no_damaged_weight(sound: Path, budget: int) -> None:
    with open_store(sound) as db:
        for name, array in ARRAYS.items():
            weights, x = Weights(db, budget), np.ones((3, array.spec.row_values), np.float32)
            for path in flips(sound, name, 2):
                require_found(db, name, path, partial(multiplied, weights, x))
                require_found(db, name, path, partial(decoded, weights))


def multiplied(weights: Weights, x: NDArray[np.float32], w: Tensor) -> Any:
    return weights.multiply(x, w.key)


def decoded(weights: Weights, w: Tensor) -> Any:
    return weights.vector(w.key)


def test_a_damaged_expert_is_found_and_the_others_are_read(tmp_path: Path) -> None:
    array = memory_array("model.layers.0.mlp.experts.up_proj.weight", (3, 16, 256), "Q4_K")
    store = write_store(tmp_path / "x.zarr", [array], chunk_bytes=1500)
    (path,) = store.rglob("c.1.1.0")
    flip(path, 9)
    with open_store(store) as db:
        w = db[array.spec.key]
        for expert in (0, 2):
            assert same(w.expert(expert)[:], array.values[expert])
        for read in (lambda: w.expert(1)[:], lambda: w[1], lambda: w.read(rows=(1, 2)), lambda: w[...]):
            with pytest.raises(ChecksumError):
                read()


def unlinked(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def extended(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def linked(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def made_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("check", ["never", "chunks", "always"])
@pytest.mark.parametrize(("damage", "error"), [
    (unlinked, ChunkError),
    (emptied, ChunkError),
    (cut, ChunkError),
    (extended, ChunkError),
    (linked, UnsafePath),
    (made_directory, UnreadableSource),
    (made_fifo, UnreadableSource),
])  # fmt: skip
def test_what_is_no_chunk_is_found_on_every_way(
    store: Path, check: Any, damage: Callable[[Path], None], error: type[WvindexError]
) -> None:
    paths = {name: chunks(store, name)[1] for name in ARRAYS}
    for path in paths.values():
        damage(path)
    with open_store(store, check=check) as db:
        for name, path in paths.items():
            key = ARRAYS[name].spec.key
            for read in (WHOLE | PART).values():
                with pytest.raises(error) as caught:
                    read(db[key])
                assert (caught.value.tensor, caught.value.file) == (key, str(path))
                assert None not in (caught.value.expected, caught.value.found)


@pytest.mark.parametrize("damage", [emptied, cut, extended])
@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_a_chunk_that_changes_its_length_while_it_is_open_is_found(
    store: Path, check: Any, damage: Callable[[Path], None]
) -> None:
    with open_store(store, check=check) as db:
        w = db[ARRAYS["Q4_K"].spec.key]
        w[0]
        damage(chunks(store, "Q4_K")[0])
        for index in (np.s_[0], np.s_[:], np.s_[0, :3]):
            with pytest.raises(ChunkError, match="wrong length"):
                w[index]


def test_a_disk_that_fails_is_named(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_store(sound) as db:
        w = db[ARRAYS["F32"].spec.key]
        w[0]
        with (
            monkeypatch.context() as patched,
            pytest.raises(UnreadableSource, match="Input/output") as caught,
        ):
            patched.setattr(os, "preadv", failing)
            w[1]
    assert (caught.value.tensor, caught.value.offset) == (ARRAYS["F32"].spec.key, 256)
    assert caught.value.file == str(chunks(sound, "F32")[0])
