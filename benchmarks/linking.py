"""Linking a model of many tensors to its file, beside building it and copying it."""

from __future__ import annotations

from pathlib import Path

import wvindex as wv
from benchmarks.building import copy_and_sync
from benchmarks.harness import Bench, remove
from benchmarks.models import Llama, write_llama

LINK, BUILD, COPY = "wvindex.build, link", "wvindex.build", "cp and sync"


def run(bench: Bench) -> None:
    """Link a Llama of 2,000 small tensors; its Q and K are reordered, so copied."""
    layers = 5 if bench.quick else 222
    source = write_llama(bench.scratch / "model.gguf", Llama(512, 1536, layers, 8, 4, 4096))
    linked, built = bench.scratch / "linked.zarr", bench.scratch / "built.zarr"
    copy = bench.scratch / "copy.gguf"

    def clean() -> None:
        for path in (linked, built, copy):
            remove(path)

    comparison = bench.compare(
        f"{2 + 9 * layers} tensors",
        {
            LINK: lambda: wv.build(source, linked, link=True),
            BUILD: lambda: wv.build(source, built),
            COPY: lambda: copy_and_sync(source, copy),
        },
        repeat=5,
        nbytes=source.stat().st_size,
        before=clean,
    )
    bench.read_median(comparison.case, "link, s", comparison.timings[LINK].seconds, bar="link")
    bench.read_speed(comparison, LINK, BUILD)
    bench.read_speed(comparison, LINK, COPY)
    wv.build(source, linked, link=True, overwrite=True)
    bench.read(comparison.case, "written, share of the source", size_of(linked) / source.stat().st_size)


def size_of(directory: Path) -> int:
    """Give the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
