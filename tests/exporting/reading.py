"""What other people's packages find in a file: the `gguf` package, and `safetensors`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import safetensors
from safetensors import safe_open

Digest = tuple[str, tuple[int, ...], str]
"""A tensor's type, its shape as the file has it, and the SHA-256 of its bytes."""


def gguf_tensors(path: Path) -> dict[str, Digest]:
    """Give every tensor of a GGUF file, in its order, as `gguf.GGUFReader` reads it."""
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(int(n) for n in tensor.shape),
            hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def gguf_fields(path: Path) -> dict[str, tuple[tuple[str, ...], object]]:
    """Give every metadata key with its types and its value, in the file's order."""
    return {
        name: (tuple(kind.name for kind in field.types), field.contents())
        for name, field in gguf.GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }


def hub_tensors(directory: Path) -> dict[str, Digest]:
    """Give every tensor of a directory's files, as the safetensors library reads them."""
    found: dict[str, Digest] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
        deserialize: Any = safetensors.deserialize
        for name, about in deserialize(path.read_bytes()):
            assert name in names
            assert name not in found
            digest = hashlib.sha256(about["data"]).hexdigest()
            found[name] = (about["dtype"], tuple(about["shape"]), digest)
    return found
