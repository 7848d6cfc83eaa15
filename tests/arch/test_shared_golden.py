"""llama.cpp's converted files describe the model that the hub's configuration describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configurations import of_file, require_same_model
from tests.support.golden import golden

FAMILIES = [path.parents[1] for path in golden("families/*/hf/config.json")]


@pytest.mark.parametrize("kind", ["BF16", "Q4_K_M"])
@pytest.mark.parametrize("directory", FAMILIES, ids=lambda path: path.name)
def test_gguf_says_what_the_hub_says(directory: Path, kind: str) -> None:
    hub, gguf = of_file(directory / "hf"), of_file(directory / f"{directory.name}-{kind}.gguf")
    require_same_model(gguf, hub)
