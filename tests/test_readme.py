"""The README's examples run, in order, as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An empty directory where ``examples/`` is within reach."""
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    return tmp_path


def run(command: list[str], directory: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_examples_run(workplace: Path) -> None:
    commands = [
        line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
    ]
    assert len(commands) >= 5
    for command in commands:
        assert run(["sh", "-c", f"{command} 2>&1"], workplace).strip(), command


def test_the_python_examples_run_and_say_what_they_should(workplace: Path) -> None:
    source = "".join(blocks("python"))
    values = re.findall(r"^(.+?) {2,}# (\S.*)$", source, re.MULTILINE)
    shown = [(code, said) for code, said in values if re.match(r"[\d('\[{]", said)]
    assert len(shown) >= 4
    checks = "".join(f"assert ({code}) == ({said}), {code!r}\n" for code, said in shown)
    output = run([sys.executable, "-c", source + checks], workplace)
    assert output.startswith("In the beginning")


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
