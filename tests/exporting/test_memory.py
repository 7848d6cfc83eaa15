"""An export stays within its memory, whatever the model's size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import REPOSITORY, environment
from tests.test_memory import BUDGET, llama, write_model

SCRIPT = """
import sys
import wvindex
from tests.support.memory import peak_memory
source, out, format, dtype = sys.argv[1:]
wvindex.export(source, out, format=format, dtype=dtype, tokenizer=False, max_memory="512MiB")
print(peak_memory())
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("form", "dtype"), [("gguf", "keep"), ("gguf", "float32"), ("maxtext", "keep"), ("maxtext", "float32")]
)
def test_a_model_larger_than_the_budget(form: str, dtype: str, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", *llama(1.2))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, source, tmp_path / "out", form, dtype],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < BUDGET
