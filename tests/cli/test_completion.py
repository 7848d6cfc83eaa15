"""``wvindex completion``: scripts that shells accept and that complete commands and options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import argv, environment, invoke, succeed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_wvindex(shell: str) -> None:
    script = succeed("completion", shell)
    assert f"_WVINDEX_COMPLETE={shell}_complete" in script


def test_the_script_is_valid_bash() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n"], input=succeed("completion", "bash"), text=True, check=True)


def test_another_shell_is_a_wrong_call() -> None:
    assert invoke("completion", "tcsh").exit_code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [("wvindex b", "build"), ("wvindex build --m", "--mla"), ("wvindex plan x --mla k", "keep")],
)
def test_words_are_completed(words: str, expected: str) -> None:
    asked = environment(
        _WVINDEX_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
    )
    done = subprocess.run(argv([]), env=asked, capture_output=True, text=True, check=False)
    assert f"plain,{expected}" in done.stdout.splitlines()


def test_bash_completes_after_evaluating_the_script() -> None:
    script = (
        'eval "$(wvindex completion bash)"\n'
        'COMP_WORDS=(wvindex in); COMP_CWORD=1; _wvindex_completion wvindex; echo "${COMPREPLY[*]}"'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(PATH=path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "info inspect\n"
