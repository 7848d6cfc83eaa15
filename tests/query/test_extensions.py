"""A store's methods that are written above it are found, and take what the store's signature says."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from tests.support.cli import REPOSITORY
from wvindex.query.database import Store
from wvindex.query.extensions import EXTENSIONS, extension


@pytest.mark.parametrize("method", EXTENSIONS)
def test_a_method_and_its_function_have_the_same_parameters(method: str) -> None:
    signature, function = inspect.signature(getattr(Store, method)), inspect.signature(extension(method))
    ours, theirs = list(signature.parameters.values())[1:], list(function.parameters.values())[1:]
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]
    assert signature.return_annotation == function.return_annotation


def test_queries_do_not_load_what_stands_above_them() -> None:
    script = (
        "import sys, wvindex.query.database\n"
        "assert not [m for m in sys.modules if m.startswith(('wvindex.inspection', 'wvindex.infer'))]"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
