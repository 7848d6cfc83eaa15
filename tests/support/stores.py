"""Checkpoints on disk and the stores built from them, each made once in a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import wvindex
from tests.support.checkpoints import checkpoint
from tests.support.gguf_metadata import MLAForm
from tests.support.gguf_writer import write_gguf
from tests.support.safetensors_writer import Experts, Form, write_safetensors
from wvindex.query.database import Store


class Stores:
    """Makes files below `root` when they are first asked for; callers must not change them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._built: dict[tuple[Path, tuple[tuple[str, str], ...]], Path] = {}
        self._written: dict[tuple[Path, int], Path] = {}

    def safetensors(self, name: str, form: Form = "hub", experts: Experts = "each", shards: int = 1) -> Path:
        """Give a directory of safetensors files."""
        directory = self.root / f"{name}-{form}-{experts}-{shards}"
        if (directory, shards) not in self._written:
            self._written[directory, shards] = write_safetensors(
                checkpoint(name), directory, form=form, experts=experts, shards=shards
            )
        return self._written[directory, shards]

    def gguf(self, name: str, mla: MLAForm = "split", dtype: str = "F32", shards: int = 1) -> Path:
        """Give a GGUF file, or the first of its shards."""
        path = self.root / f"{name}-{mla}-{dtype}.gguf"
        if (path, shards) not in self._written:
            written = write_gguf(checkpoint(name), path, mla=mla, dtype=dtype, shards=shards)
            self._written[path, shards] = written[0]
        return self._written[path, shards]

    def build(self, source: Path, **options: Any) -> Path:
        """Give the store of a checkpoint, built once for each choice of options."""
        key = (source, tuple(sorted(options.items())))
        if key not in self._built:
            out = self.root / f"store-{len(self._built)}.zarr"
            self._built[key] = wvindex.build(source, out, **options)
        return self._built[key]


def require_same_store(bare: Store, built: Store) -> None:
    """Compare the view of a bare checkpoint with the store that keeps: specs, bytes, values."""
    assert bare.config == built.config
    assert list(bare) == list(built)
    for key in bare:
        assert bare[key].spec == built[key].spec
        np.testing.assert_array_equal(bare[key].raw(), built[key].raw(), err_msg=key)
        np.testing.assert_array_equal(np.asarray(bare[key]), np.asarray(built[key]), err_msg=key)
        if bare[key].scale_block is not None:
            np.testing.assert_array_equal(bare[key].scales(), built[key].scales())
