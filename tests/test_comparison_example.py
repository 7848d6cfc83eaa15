"""The scripts of examples/ run, without a network, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, REPOSITORY, environment

SCRIPT = REPOSITORY / "examples" / "compare_quantizations.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the comparison; give its models' directory and what it printed."""
    directory = tmp_path_factory.mktemp("quantized")
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, directory],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def test_each_quantization_is_worse_than_the_one_with_more_bits(ran: tuple[Path, str]) -> None:
    rows = [line.split() for line in ran[1].splitlines()[1:4]]
    assert [row[0] for row in rows] == ["Q5_0", "Q4_0", "Q3_K"]
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    assert [float(row[2]) for row in rows] == sorted(float(row[2]) for row in rows)


def test_what_it_packs_as_q3_k_others_decode(ran: tuple[Path, str]) -> None:
    packed = {t.name: t for t in gguf.GGUFReader(ran[0] / "tiny-kjv-Q3_K.gguf").tensors}
    for tensor in gguf.GGUFReader(EXAMPLE).tensors:
        other = packed[tensor.name]
        x, y = (gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for t in (tensor, other))
        assert np.linalg.norm(x - y) <= 0.17 * np.linalg.norm(x)


def test_what_it_says_is_what_diff_says(ran: tuple[Path, str]) -> None:
    found = wv.diff(EXAMPLE, ran[0] / "tiny-kjv-Q3_K.gguf")
    assert f"{found.tensors['key'][0]}: rel. error {found.tensors['rel_l2'][0]:.4f}" in ran[1]
    assert f"{found.model['sqnr_db'][0]:.2f}" in ran[1].splitlines()[3]
