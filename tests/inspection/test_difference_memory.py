"""A comparison holds tiles, and a down-projection: not what it compares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli import REPOSITORY, environment

MOST = 160 << 20
"""Beyond a process that has compared two small tensors: tiles of two threads, and BLAS."""

SCRIPT = """
import sys
import wvindex as wv
from tests.support.memory import peak_memory
small = wv.diff(*sys.argv[1:3]).model["rel_l2"]
before = peak_memory()
print(wv.diff(*sys.argv[3:5]).model["rel_l2"][0], peak_memory() - before)
"""


def write(directory: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], byte: int) -> Path:
    """Write BF16 tensors of one random block over and over, near 0.01; `byte` makes the low bytes."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    block = np.random.default_rng(byte).integers(0, 256, 16 << 20, np.uint8)
    block[1::2] = 0x3C
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, block.size):
            file.write(block[: min(block.size, end - start)].data)
    return directory


def peak(*paths: Path) -> tuple[float, int]:
    """Give rel_l2, and the memory that a comparison took in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)],
        cwd=REPOSITORY,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    damage, memory = done.stdout.split()
    return float(damage), int(memory)


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    """Give two models so small that only libraries and kernels are loaded for them."""
    return [write(tmp_path / f"small-{i}", {"model_type": "x"}, {"w": (64, 64)}, i) for i in (1, 2)]


def test_a_matrix_larger_than_the_memory_it_takes(small: list[Path], tmp_path: Path) -> None:
    large = [
        write(tmp_path / f"large-{i}", {"model_type": "x"}, {"w": (64 << 10, 2 << 10)}, i) for i in (1, 2)
    ]
    damage, memory = peak(*small, *large)
    assert damage > 0.1
    assert memory < MOST < 2 * (64 << 10) * (2 << 10) * 2
