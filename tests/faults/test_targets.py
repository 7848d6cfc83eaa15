"""Where no store can be built, nothing is read and nothing is touched; two builds never share a place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import wvindex
from tests.support.cli import REPOSITORY, argv, environment, invoke
from tests.support.interrupted import build, journaled, tree, write_plain_model
from tests.support.trees import names
from wvindex.errors import BuildLocked, StoreError, TargetExists, UnreadableSource

NOBODY: Final = 65534


def _file(path: Path) -> None:
    path.write_text("mine")


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def _foreign_zarr(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def _link_to_a_store(path: Path) -> None:
    source = write_plain_model(path.with_name("linked-source"))
    path.symlink_to(wvindex.build(source, path.with_name("linked.zarr")))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


TAKEN: Final[dict[str, Callable[[Path], None]]] = {
    "file": _file,
    "empty directory": Path.mkdir,
    "directory": _directory,
    "another Zarr group": _foreign_zarr,
    "symlink to a store": _link_to_a_store,
    "dangling symlink": lambda path: path.symlink_to("nowhere"),
    "FIFO": os.mkfifo,
    "socket": _socket,
}


def status(root: Path) -> dict[str, tuple[int, ...]]:
    """Give what would show that anything was touched: kinds, sizes, times of change."""
    paths = [root, *root.rglob("*")]
    facts = {str(path): path.lstat() for path in paths}
    return {path: (fact.st_mode, fact.st_size, fact.st_mtime_ns, fact.st_ino) for path, fact in facts.items()}


@pytest.fixture(params=["missing", "FIFO"])
def unreadable(request: pytest.FixtureRequest, tmp_memory: Path) -> Path:
    """A source that is refused at its first touch, so that a refusal of the target must come before."""
    source = tmp_memory / "elsewhere" / "model.gguf"
    source.parent.mkdir()
    if request.param == "FIFO":
        os.mkfifo(source)
    with pytest.raises(UnreadableSource):
        wvindex.plan(source)
    return source


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_no_store_is_refused_before_the_source_is_read(
    kind: str, overwrite: bool, unreadable: Path, tmp_memory: Path
) -> None:
    parent = tmp_memory / "parent"
    parent.mkdir()
    TAKEN[kind](parent / "out.zarr")
    before = status(parent)
    with pytest.raises(TargetExists, match=r"out\.zarr"):
        wvindex.build(unreadable, parent / "out.zarr", overwrite=overwrite)
    for quiet in ([], ["-q"]):
        options = [*quiet, *(["--overwrite"] if overwrite else [])]
        result = invoke("build", unreadable, "-o", parent / "out.zarr", *options)
        assert result.exit_code == 3
        assert result.stderr.startswith("error[target-exists]: ")
        assert len(result.stderr.splitlines()) == 1
    assert status(parent) == before


def test_a_store_is_refused_unless_it_may_be_replaced(unreadable: Path, tmp_memory: Path) -> None:
    out = tmp_memory / "out.zarr"
    build(write_plain_model(tmp_memory / "source"), out)
    before = status(out)
    with pytest.raises(TargetExists):
        wvindex.build(unreadable, out)
    with pytest.raises(UnreadableSource):
        wvindex.build(unreadable, out, overwrite=True)
    assert status(out) == before


@pytest.mark.parametrize("parent", ["nothing", "file", "nothing/below"])
def test_a_parent_that_is_no_directory_is_refused_before_the_source_is_read(
    parent: str, unreadable: Path, tmp_memory: Path
) -> None:
    (tmp_memory / "file").write_text("mine")
    before = status(tmp_memory)
    with pytest.raises(StoreError, match="does not exist"):
        wvindex.build(unreadable, tmp_memory / parent / "out.zarr")
    result = invoke("build", unreadable, "-o", tmp_memory / parent / "out.zarr")
    assert (result.exit_code, result.stderr[:13]) == (3, "error[store]:")
    assert status(tmp_memory) == before


_AS_NOBODY: Final = f"""
import os, sys
from wvindex.cli.main import cli, main
cli(["build", "/nothing", "-o", "/nothing/out.zarr"], standalone_mode=False)  # import now
if os.getuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
main()
"""


def test_a_parent_that_may_not_be_written_to_is_refused_before_the_source_is_read(
    unreadable: Path, tmp_memory: Path
) -> None:
    """In a process without root's rights: root may write anywhere."""
    parent = tmp_memory / "parent"
    parent.mkdir()
    tmp_memory.parent.chmod(0o755)
    tmp_memory.chmod(0o755)
    parent.chmod(0o555)
    before = status(parent)
    for options in ([], ["--overwrite"]):
        done = subprocess.run(
            argv(["build", unreadable, "-o", parent / "out.zarr", *options], _AS_NOBODY),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        error = f"error[store]: the directory to build in may not be written to (file: {parent})"
        assert done.stderr.splitlines()[1:] == [error]
        assert done.returncode == 3
    assert status(parent) == before


@pytest.mark.parametrize("kind", ["file", "symlink", "foreign directory"])
def test_a_building_directory_that_is_no_builds_is_left_alone(kind: str, tmp_memory: Path) -> None:
    source = write_plain_model(tmp_memory / "source")
    place = tmp_memory / "parent" / "out.zarr.building"
    place.parent.mkdir()
    make: dict[str, Callable[[Path], None]] = {
        "file": _file,
        "symlink": lambda path: path.symlink_to(tmp_memory),
        "foreign directory": _directory,
    }
    make[kind](place)
    before = status(place.parent)
    for restart in (False, True):
        with pytest.raises(StoreError, match=r"out\.zarr\.building"):
            wvindex.build(source, tmp_memory / "parent" / "out.zarr", restart=restart)
    assert status(place.parent) == before


class TestTwoBuilders:
    """One process builds; the lock is the kernel's, and ends with it."""

    HOLD: Final = """
import sys, wvindex
from pathlib import Path
from tests.support.interrupted import build

def hold(progress):
    print("building", flush=True)
    sys.stdin.read()

build(Path(sys.argv[1]), Path(sys.argv[2]), progress=hold, overwrite=sys.argv[3] == "True")
"""

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_second_touches_nothing_and_goes_on_when_the_first_has_died(
        self, overwrite: bool, tmp_memory: Path
    ) -> None:
        source = write_plain_model(tmp_memory / "source")
        parent = tmp_memory / "parent"
        parent.mkdir()
        if overwrite:
            build(write_plain_model(tmp_memory / "old", seed=1, rows=40), parent / "out.zarr")
        build(source, tmp_memory / "expected.zarr")
        with subprocess.Popen(
            [sys.executable, "-c", self.HOLD, source, parent / "out.zarr", str(overwrite)],
            cwd=REPOSITORY,
            env=environment(OMP_NUM_THREADS="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "building\n"
            before = settled(parent)
            replace = ["--overwrite"] if overwrite else []
            for options in ([], ["--restart"], ["--dtype", "float16"]):
                result = invoke("build", source, "-o", parent / "out.zarr", *options, *replace)
                assert result.exit_code == 3
                assert result.stderr.startswith("error[build-locked]: ")
                assert "out.zarr.building" in result.stderr
            with pytest.raises(BuildLocked):
                wvindex.build(source, parent / "out.zarr", overwrite=overwrite)
            assert settled(parent) == before
            first.kill()
        kept = journaled(parent / "out.zarr.building")
        disk = build(source, parent / "out.zarr", overwrite=overwrite)
        assert not {op.path for op in disk.seen if op.kind == "create"} & {
            f"{parent}/out.zarr.building/store/{name}" for name in kept
        }
        assert tree(parent / "out.zarr") == tree(tmp_memory / "expected.zarr")
        assert names(parent) == ["out.zarr"]


def settled(root: Path) -> dict[str, tuple[int, ...]]:
    """Give the status once it stays as it is: the writers of a build that waits come to an end."""
    before: dict[str, tuple[int, ...]] = {}
    while (found := status(root)) != before:
        before = found
        time.sleep(0.1)
    return found
