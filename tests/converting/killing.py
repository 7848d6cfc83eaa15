"""Kills a conversion at each operation in turn, and has another go on.

``python -m tests.converting.killing DIRECTORY`` prints how many points there were. It is a process of its own
because it forks: nothing else runs in it.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import wvindex
from tests.support import configs
from tests.support.disk import Disk, killing
from tests.support.killed import killed
from tests.support.safetensors_writer import write_weights
from tests.support.trees import contents, names
from wvindex.converting import hub


def write_model(directory: Path) -> Path:
    """Write two files of tensors, one of which holds both halves."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        "model.layers.0.self_attn.q_a_proj.weight": rng.standard_normal((64, 32), np.float32),
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": rng.standard_normal((48, 32), np.float32),
        "lm_head.weight": rng.standard_normal((50, 32), np.float32),
    }
    config = configs.deepseek_v3(q_lora_rank=64, kv_lora_rank=32, qk_rope_head_dim=16, hidden_size=32)
    (directory / "config.json").write_text(json.dumps(config))
    write_weights(tensors, directory, shards=2)
    return directory


def convert(source: Path, target: Path, at: int | None = None, **options: Any) -> Disk:
    """Convert, a few kilobytes at a time."""
    before = None if at is None else killing(at)
    with mock.patch.object(hub, "_MOST_BUFFERED", 4096), Disk(target.parent, before) as disk:
        wvindex.convert(source, target, fuse_mla_lora=True, **options)
    return disk


def main(directory: str) -> None:
    """Kill everywhere, with nothing at the target and with a checkpoint to replace."""
    scratch = Path(directory)
    source = write_model(scratch / "source")
    convert(source, scratch / "expected")
    wvindex.convert(scratch / "expected", scratch / "old", unfuse_mla_lora=True)
    expected, old = contents(scratch / "expected"), contents(scratch / "old")
    points = resumed = 0
    for overwrite in (False, True):
        at = 1
        while True:
            place = scratch / f"{overwrite}-{at}"
            place.mkdir()
            if overwrite:
                shutil.copytree(scratch / "old", place / "out")
            if not killed(partial(convert, source, place / "out", at, overwrite=overwrite)):
                break
            found = contents(place / "out") if (place / "out").exists() else None
            assert found in ([old, expected] if overwrite else [None, expected]), "half a checkpoint"
            journal = place / "out.converting" / "journal"
            resumed += journal.exists() and len(journal.read_bytes().splitlines()) > 1
            convert(source, place / "out", overwrite=overwrite or found is not None)
            assert contents(place / "out") == expected
            assert names(place) == ["out"]
            shutil.rmtree(place)
            points, at = points + 1, at + 1
    print(json.dumps({"points": points, "resumed": resumed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
