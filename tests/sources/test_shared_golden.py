"""Every reference model reads as its format's own package reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.golden import golden
from tests.support.real_files import require_same_checkpoint, require_same_metadata, require_same_tensors

GGUF = [path for path in golden("**/*.gguf") if path.name != "type-zoo.gguf"]  # which the package cannot read
CHECKPOINTS = [path.parent for path in golden("**/hf/model.safetensors")]


def test_the_reference_files_are_there() -> None:
    assert len(GGUF) > 20
    assert len(CHECKPOINTS) > 5


@pytest.mark.parametrize("path", GGUF, ids=lambda p: p.stem)
def test_gguf_files_are_as_the_gguf_package_says(path: Path) -> None:
    require_same_tensors(path)
    require_same_metadata(path)


@pytest.mark.parametrize("directory", CHECKPOINTS, ids=lambda p: p.parent.name)
def test_checkpoints_are_as_the_safetensors_package_says(directory: Path) -> None:
    require_same_checkpoint(directory)
