"""Checkpoints of which one tensor was changed, and nothing else that a header tells."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np


def changed(source: Path, tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    """Give a copy of a checkpoint of one file, of the same header and time of change, but for one tensor."""
    copy = Path(shutil.copytree(source, tmp_path / "changed"))
    file = copy / "model.safetensors"
    status, tensors = file.stat(), load_raw(file)
    change(tensors[name])
    header = file.read_bytes()[: 8 + int.from_bytes(file.read_bytes()[:8], "little")]
    with file.open("r+b") as opened:
        opened.seek(len(header))
        for tensor in tensors.values():
            opened.write(tensor.tobytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return copy


def load_raw(file: Path) -> dict[str, Any]:
    """Read tensors in the order in which they lie in the file, with nothing but JSON and NumPy."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    dtypes = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F32": np.float32,
        "U8": np.uint8,
    }
    found = {}
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = (8 + length + offset for offset in about["data_offsets"])
        found[name] = np.frombuffer(data[start:stop], dtypes[about["dtype"]]).reshape(about["shape"]).copy()
    return found
