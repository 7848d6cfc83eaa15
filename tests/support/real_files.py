"""What a reader must find in a real file: what the format's own package finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import safetensors

from wvindex.sources.gguf import GGUFSource
from wvindex.sources.safetensors import TOKENIZER_FILES, SafetensorsSource


def require_same_tensors(path: Path) -> None:
    """Compare names, shapes, types, places and bytes with the gguf package's."""
    reader = gguf.GGUFReader(path)
    with GGUFSource(path) as source:
        ours = {t.name: t for t in source.tensors()}
        assert list(ours) == [t.name for t in sorted(reader.tensors, key=lambda t: t.data_offset)]
        for theirs in reader.tensors:
            info = ours[theirs.name]
            assert info.shape == tuple(map(int, theirs.shape[::-1]))
            assert info.encoding.name == theirs.tensor_type.name
            assert (info.offset, info.nbytes) == (theirs.data_offset, theirs.n_bytes)
            assert bytes(source.read(info, 0, info.nbytes)) == theirs.data.tobytes()


def require_same_metadata(path: Path) -> None:
    """Compare metadata, vocabulary included, with the gguf package's."""
    fields = gguf.GGUFReader(path).fields
    theirs = {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.")}
    with GGUFSource(path) as source:
        tokenizer = source.tokenizer()
        assert tokenizer is not None
        assert not tokenizer.files
        assert {**source.config(), **tokenizer.gguf} == theirs
        assert not any(isinstance(v, list) for k, v in source.config().items() if k.startswith("tokenizer."))


def require_same_checkpoint(directory: Path) -> None:
    """Compare a directory's tensors with the safetensors package's, its other files with themselves."""
    # Its NumPy interface fails at dtypes that NumPy lacks, such as FP8; this gives the bytes.
    deserialize: Any = safetensors.deserialize
    stored = dict(deserialize((directory / "model.safetensors").read_bytes()))
    with (
        SafetensorsSource(directory) as source,
        safetensors.safe_open(directory / "model.safetensors", "numpy") as theirs,
    ):
        infos = {t.name: t for t in source.tensors()}
        assert infos.keys() == set(theirs.keys())
        for name, info in infos.items():
            assert info.shape == tuple(theirs.get_slice(name).get_shape())
            assert info.encoding.name == theirs.get_slice(name).get_dtype()
            assert bytes(source.read(info, 0, info.nbytes)) == bytes(stored[name]["data"])
        tokenizer = source.tokenizer()
        assert source.config() == json.loads((directory / "config.json").read_text())
    assert tokenizer is not None
    assert not tokenizer.gguf
    present = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in TOKENIZER_FILES}
    assert tokenizer.files == present
