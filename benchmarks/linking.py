"""Linking a model of many tensors, beside building it, copying it, and barely writing such a tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import wvindex as wv
from benchmarks.building import copy_and_sync
from benchmarks.harness import Bench, remove
from benchmarks.models import Llama, write_llama

LINK, BUILD, COPY = "wvindex.build, link", "wvindex.build", "cp and sync"
TREE = "the linked store's files, written and synced"


def run(bench: Bench) -> None:
    """Link a Llama of 2,000 small tensors; its Q and K are reordered, so copied."""
    layers = 5 if bench.quick else 222
    source = write_llama(bench.scratch / "model.gguf", Llama(512, 1536, layers, 8, 4, 4096))
    linked, built = bench.scratch / "linked.zarr", bench.scratch / "built.zarr"
    copy, bare = bench.scratch / "copy.gguf", bench.scratch / "bare"
    wv.build(source, linked, link=True)
    contents = {path.relative_to(linked): path.read_bytes() for path in linked.rglob("*") if path.is_file()}

    def clean() -> None:
        for path in (linked, built, copy, bare):
            remove(path)

    comparison = bench.compare(
        f"{2 + 9 * layers} tensors",
        {
            LINK: lambda: wv.build(source, linked, link=True),
            BUILD: lambda: wv.build(source, built),
            COPY: lambda: copy_and_sync(source, copy),
            TREE: lambda: write_tree(bare, contents),
        },
        repeat=5,
        nbytes=source.stat().st_size,
        before=clean,
    )
    bench.read_median(comparison.case, "link, s", comparison.timings[LINK].seconds, bar="link")
    bench.read_speed(comparison, LINK, BUILD)
    bench.read_speed(comparison, LINK, COPY)
    bench.read_speed(comparison, LINK, TREE)
    wv.build(source, linked, link=True, overwrite=True)
    bench.read(comparison.case, "written, share of the source", size_of(linked) / source.stat().st_size)


def write_tree(root: Path, contents: Mapping[Path, bytes]) -> None:
    """Write files and their directories, and have the disk hold them, eight at a time."""
    directories = {root / parent for name in contents for parent in name.parents}
    for directory in sorted(directories):
        directory.mkdir()
    for name, data in contents.items():
        (root / name).write_bytes(data)

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync, [*map(root.joinpath, contents), *directories]))


def size_of(directory: Path) -> int:
    """Give the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
