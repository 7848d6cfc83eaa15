"""The corpus of hostile input: a named file or directory for each fault.

``python -m tests.hostile.make DIRECTORY`` writes it and lists it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hostile import gguf_faults, model_faults, safetensors_faults, store_faults


@dataclass(frozen=True)
class Corpus:
    """What was written.

    Attributes
    ----------
    sources : mapping of str to Path
        Checkpoints to refuse, by ``format/fault``.
    valid : mapping of str to Path
        Checkpoints that are odd, and valid.
    stores : mapping of str to Path
        Stores to refuse, when they are opened or when they are read.
    """

    sources: Mapping[str, Path]
    valid: Mapping[str, Path]
    stores: Mapping[str, Path]


def make(directory: Path) -> Corpus:
    """Write the whole corpus below `directory`, which need not exist."""
    faults, valid = directory / "faults", directory / "valid"
    return Corpus(
        sources={
            **_files(faults / "gguf", gguf_faults.FILES, ".gguf"),
            **_files(faults / "model", model_faults.FILES, ".gguf"),
            **_files(faults / "safetensors", safetensors_faults.FILES, ".safetensors"),
            **_directories(faults / "gguf", gguf_faults.DIRECTORIES),
            **_directories(faults / "safetensors", safetensors_faults.DIRECTORIES),
        },
        valid={
            **_files(valid / "gguf", gguf_faults.VALID_FILES, ".gguf"),
            **_files(valid / "model", model_faults.VALID_FILES, ".gguf"),
            **_files(valid / "safetensors", safetensors_faults.VALID_FILES, ".safetensors"),
            **_directories(valid / "safetensors", safetensors_faults.VALID_DIRECTORIES),
        },
        stores={
            f"store/{name}": path for name, path in store_faults.make_stores(directory / "store").items()
        },
    )


def _files(directory: Path, contents: Mapping[str, bytes], suffix: str) -> dict[str, Path]:
    directory.mkdir(parents=True)
    paths = {f"{directory.name}/{name}": directory / f"{name}{suffix}" for name in contents}
    for path, data in zip(paths.values(), contents.values(), strict=True):
        path.write_bytes(data)
    return paths


def _directories(directory: Path, makers: Mapping[str, Callable[[Path], Path]]) -> dict[str, Path]:
    paths = {}
    for name, maker in makers.items():
        (directory / name).mkdir()
        paths[f"{directory.name}/{name}"] = maker(directory / name)
    return paths


if __name__ == "__main__":
    corpus = make(Path(sys.argv[1]))
    for title, paths in (("refuse", corpus.sources), ("read", corpus.valid), ("refuse", corpus.stores)):
        for fault, path in paths.items():
            print(f"{title}\t{fault}\t{path}")
