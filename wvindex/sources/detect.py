"""Which reader a path wants, by what is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wvindex.errors import UnknownFormat, UsageError
from wvindex.limits import MAX_SAFETENSORS_HEADER
from wvindex.sources import gguf_shards, safetensors_index
from wvindex.sources.base import Source
from wvindex.sources.files import OpenFiles, is_directory, list_names, resolve_member
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.gguf_header import MAGIC
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import LENGTH_BYTES

_FOREIGN_MAGIC: Final[dict[bytes, str]] = {
    b"PK\x03\x04": "a zip archive, such as PyTorch writes",
    b"\x80\x02": "a Python pickle, such as PyTorch wrote",
    b"\x89HDF": "HDF5",
    b"lmgg": "GGML, the format before GGUF",
    b"fmgg": "GGMF, a format before GGUF",
    b"tjgg": "GGJT, a format before GGUF",
}
"""Files that people mistake for checkpoints that wvindex reads."""


def open_source(path: str | Path, config: str | os.PathLike[str] | None = None) -> Source:
    """Open a checkpoint with the reader that its content asks for.

    Parameters
    ----------
    path : str or Path
        A GGUF or safetensors file, a safetensors index, or a directory. In a directory safetensors come
        first, then an Orbax tree; GGUF is opened where there is exactly one model, sharded or not.
    config : path, optional
        Of a MaxText checkpoint, which has no configuration in it; no other takes one.

    Raises
    ------
    UnknownFormat
        If there is no checkpoint.
    UsageError
        If a directory holds several GGUF models, or a configuration is given to what has its own.
    SourceError, UnsupportedError
        As the readers raise them.
    """
    path = Path(path)
    if is_directory(path):
        return _open_directory(path, config)
    _require_none(config, path)
    if path.name.endswith(safetensors_index.INDEX_SUFFIX):
        return SafetensorsSource(path)
    start, size = _first_bytes(path, LENGTH_BYTES + 1)
    if start.startswith(MAGIC):
        return GGUFSource(path)
    if path.name.endswith(safetensors_index.SUFFIX) or _looks_like_safetensors(start):
        return SafetensorsSource(path)
    foreign = next((what for magic, what in _FOREIGN_MAGIC.items() if start.startswith(magic)), None)
    raise UnknownFormat(
        "neither GGUF nor safetensors",
        file=path,
        expected="GGUF's magic, or a safetensors header",
        found=foreign or (bytes(start) if size else "an empty file"),
    )


def _open_directory(directory: Path, config: str | os.PathLike[str] | None) -> Source:
    names = list_names(directory)
    is_hub = any(name.endswith((safetensors_index.SUFFIX, safetensors_index.INDEX_SUFFIX)) for name in names)
    if not is_hub:
        from wvindex.sources.orbax_metadata import is_orbax  # which other checkpoints need not wait for

        if is_orbax(directory):
            from wvindex.sources.maxtext import MaxTextSource

            return MaxTextSource(directory, config)
    _require_none(config, directory)
    if is_hub:
        return SafetensorsSource(directory)
    models = gguf_shards.model_names(names)
    if len(models) > 1:
        raise UsageError("several GGUF models: name one of them", file=directory, found=", ".join(models))
    if not models:
        raise UnknownFormat(
            "neither a GGUF nor a safetensors file, nor an Orbax tree, in the directory", file=directory
        )
    return _open_found(directory, next(iter(models.values())))


def _require_none(config: str | os.PathLike[str] | None, path: Path) -> None:
    if config is not None:
        raise UsageError(
            "only a MaxText checkpoint is given a configuration", file=path, field="config", found=config
        )


def _open_found(directory: Path, name: str) -> Source:
    """Open a file that was found, not named: it must lie in the directory."""
    resolve_member(directory, name)
    return GGUFSource(directory / name)


def _first_bytes(path: Path, length: int) -> tuple[bytearray, int]:
    with OpenFiles() as files:
        size = files.add(path).st_size
        return files.read(path, 0, min(length, size)), size


def _looks_like_safetensors(start: bytearray) -> bool:
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    return start[LENGTH_BYTES:] == b"{" and length <= MAX_SAFETENSORS_HEADER
