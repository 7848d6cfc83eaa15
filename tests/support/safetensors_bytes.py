"""safetensors files byte by byte, and checkpoints laid out as the hub does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def entry(dtype: Any = "F32", shape: Any = (2,), begin: Any = 0, end: Any = 8) -> dict[str, Any]:
    """Give one tensor's entry of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(header: Any, data: bytes = bytes(8), *, length: int | None = None) -> bytes:
    """Pack a whole file from a header (bytes as they are, anything else as JSON); `length` may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def write_index(directory: Path, weight_map: dict[str, str], name: str = "model") -> Path:
    """Write an index beside the shards."""
    path = directory / f"{name}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path
