"""The Python of docs/convert.md runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import wvindex
from tests.support.cli import EXAMPLE, REPOSITORY, environment


def test_the_python_runs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "convert.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    wvindex.build(EXAMPLE, tmp_path / "kept.zarr", mla="keep")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "3 fused" in done.stdout
    assert (tmp_path / "fused.zarr").is_dir()
