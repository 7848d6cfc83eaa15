"""The scripts of examples/ that look inside run, without a network, and what they say is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.cli import EXAMPLE, REPOSITORY, environment
from wvindex.infer import Model


def run(name: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", REPOSITORY / "examples" / name, directory],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_heads_of_an_absorbed_layer(tmp_path: Path) -> None:
    said = run("heads_of_absorbed_mla.py", tmp_path)
    assert str(wv.inspect(tmp_path / "kjv.zarr", 2)) in said
    same = [float(one) for one in re.findall(r"the same within (\S+)", said)]
    assert len(same) == 2
    assert max(same) < 1e-5
    parts = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+)$", said, re.MULTILINE)
    with wv.open(tmp_path / "kjv.zarr") as db:
        attention = db.layers[2].self_attn
        for head, position, content in parts:
            q, k = (w.head(int(head))[:].astype(np.float64) for w in (attention.q_proj, attention.k_proj))
            assert float(position) == pytest.approx(np.linalg.norm(q[:16].T @ k[:16]), abs=0.006)
            assert float(content) == pytest.approx(np.linalg.norm(q[16:].T @ k[16:]), abs=0.006)
    assert len(parts) == 8
    assert "head 4: " in said
    (off,) = re.findall(r"values by hand: off by (\S+)", said)
    assert float(off) < 1e-4


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the script; give the copy that it writes, and what it says."""
    directory = tmp_path_factory.mktemp("outliers")
    said = run("outlier_channels.py", directory)
    return directory / "outliers.gguf", said


def test_outlier_channels_are_found_and_cost_what_is_said(outliers: tuple[Path, str]) -> None:
    _, said = outliers
    assert "channels of the stream: [41, 200], each in 7 matrices" in said
    for without, with_ in re.findall(r"([\d.]+) without, ([\d.]+) with", said):
        assert 0.05 < 2 * float(without) < float(with_)


def test_the_copy_with_outliers_is_the_same_model(outliers: tuple[Path, str], tmp_path: Path) -> None:
    def logits(source: Path, name: str) -> NDArray[np.float32]:
        with wv.open(wv.build(source, tmp_path / name)) as db:
            return Model(db).forward(np.arange(3, 40)).logits

    before, after = logits(EXAMPLE, "before.zarr"), logits(outliers[0], "after.zarr")
    assert np.abs(before - after).max() < 1e-3 * before.std()
