"""A verification holds pieces and tiles, never an array; in processes of their own, whose peaks are told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wvindex
from benchmarks.models import Llama, write_llama
from tests.support.cli import REPOSITORY, environment

SMALL, LARGE = Llama(256, 512, 1, 4, 2, 512), Llama(4096, 12288, 1, 32, 8, 64_000)
"""The larger one's embedding is 150 MB in Q4_K, and 1 GB once it is decoded."""

SCRIPT = """
import sys, wvindex
from tests.support.memory import peak_memory
found = wvindex.verify(*sys.argv[1:], threads=2)
assert found.ok, found.faults
print(peak_memory(), found.bytes_checked)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Path]]]:
    """Give a small and a large store, with their sources; they do not outlive the tests."""
    scratch = tmp_path_factory.mktemp("models")
    found = {}
    for name, shape in (("small", SMALL), ("large", LARGE)):
        source = write_llama(scratch / f"{name}.gguf", shape)
        found[name] = [wvindex.build(source, scratch / f"{name}.zarr"), source]
    yield found
    shutil.rmtree(scratch)


def peak(*paths: Path) -> tuple[int, int]:
    """Verify in a process of its own; give its peak and the bytes that it checked."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)],
        env=environment(PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    memory, nbytes = map(int, done.stdout.split())
    return memory, nbytes


@pytest.mark.parametrize(("with_source", "allowed"), [(False, 24 << 20), (True, 96 << 20)])
def test_memory_does_not_grow_with_the_model(
    models: dict[str, list[Path]], with_source: bool, allowed: int
) -> None:
    n_paths = 2 if with_source else 1
    small, _ = peak(*models["small"][:n_paths])
    large, nbytes = peak(*models["large"][:n_paths])
    assert nbytes > 200 << 20
    assert large - small < allowed
