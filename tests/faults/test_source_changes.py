"""A source that changes under a build is refused, by name; a store never mixes two checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.checkpoints import Checkpoint, made
from tests.support.cli import invoke
from tests.support.disk import refusing, refusing_once_journaled
from tests.support.gguf_writer import write_gguf
from tests.support.interrupted import SMALL_RECIPE, build, tree
from tests.support.safetensors_writer import write_safetensors
from tests.support.trees import names
from wvindex.errors import SourceChanged, SourceError, StoreError, TruncatedSource, UsageError
from wvindex.sources.files import OpenFiles

FORMS: Final = ("gguf", "gguf shards", "safetensors", "safetensors shards")


def checkpoint() -> Checkpoint:
    return made(SMALL_RECIPE)


def write(form: str, directory: Path) -> Path:
    """Write the small model in one of `FORMS`, and give what `wvindex build` takes."""
    shards = 2 if "shards" in form else 1
    if form.startswith("gguf"):
        directory.mkdir()
        return write_gguf(checkpoint(), directory / "model.gguf", dtype="Q8_0", shards=shards)[0]
    return write_safetensors(checkpoint(), directory, shards=shards)


def weights(directory: Path) -> Path:
    """Give the file of a model's last weights."""
    return sorted(path for path in directory.iterdir() if path.suffix in {".gguf", ".safetensors"})[-1]


@pytest.fixture(scope="module", params=FORMS)
def original(request: pytest.FixtureRequest, memory: Path) -> Path:
    return write(request.param, memory / request.param)


@pytest.fixture
def source(original: Path, tmp_memory: Path) -> Path:
    """A copy that the test may change; its times of change are the original's."""
    directory = original if original.is_dir() else original.parent
    shutil.copytree(directory, tmp_memory / "model")
    return tmp_memory / "model" if original.is_dir() else tmp_memory / "model" / original.name


def keeping_times(change: Callable[[Path], None], path: Path) -> None:
    """Change a file so that its size and its times tell nothing."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def change_header(path: Path) -> None:
    """Change what a reader need not mind: a tensor's own name, or metadata."""
    data = path.read_bytes()
    for one, other in ((b"ffn_up_exps", b"ffn_gate_ex"), (b'"format":"pt"', b'"format":"xx"')):
        if one in data:
            path.write_bytes(data.replace(one, other, 1))
            return
    raise AssertionError(path)


def change_weights(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        last = file.read(1)
        file.seek(-64, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(32))


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def interrupt(source: Path, out: Path, **options: Any) -> None:
    with pytest.raises(StoreError, match="output error"):
        build(source, out, before=refusing_once_journaled(), **options)


class TestBetweenInterruptionAndResume:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            (touch, "mtime_ns"),
            (lambda path: keeping_times(change_header, path), "header_sha256"),
        ],
        ids=["touched", "other header"],
    )
    def test_another_source_is_refused_and_restart_builds_it(
        self, source: Path, tmp_memory: Path, change: Callable[[Path], None], field: str
    ) -> None:
        out, changed = tmp_memory / "out.zarr", weights(tmp_memory / "model")
        interrupt(source, out)
        change(changed)
        before = tree(tmp_memory)
        with pytest.raises(SourceChanged) as caught:
            build(source, out)
        error = caught.value
        assert (error.file, error.field) == (changed.name, field)
        assert error.expected not in {None, error.found}
        assert error.found is not None
        result = invoke("build", source, "-o", out)
        assert result.exit_code == 3
        assert result.stderr.startswith("error[source-changed]: the sources have changed since")
        assert tree(tmp_memory) == before
        build(source, out, restart=True)
        build(source, tmp_memory / "again.zarr")
        assert tree(out) == tree(tmp_memory / "again.zarr")

    def test_a_source_that_was_cut_is_refused_whatever_was_written(
        self, source: Path, tmp_memory: Path
    ) -> None:
        out, changed = tmp_memory / "out.zarr", weights(tmp_memory / "model")
        interrupt(source, out)
        os.truncate(changed, changed.stat().st_size - 100)
        before = tree(tmp_memory)
        with pytest.raises((TruncatedSource, SourceChanged)) as caught:
            build(source, out)
        assert caught.value.file == str(changed)
        assert tree(tmp_memory) == before

    def test_other_weights_are_seen_only_by_hashing(self, source: Path, tmp_memory: Path) -> None:
        out, changed = tmp_memory / "out.zarr", weights(tmp_memory / "model")
        interrupt(source, out, verify_source=True)
        keeping_times(change_weights, changed)
        with pytest.raises(SourceChanged, match="since the build that was interrupted") as caught:
            build(source, out, verify_source=True)
        assert (caught.value.file, caught.value.field) == (changed.name, "sha256")
        assert len(str(caught.value.expected)) == len(str(caught.value.found)) == 64
        build(source, out, verify_source=True, restart=True)
        build(source, tmp_memory / "again.zarr")
        assert tree(out) == tree(tmp_memory / "again.zarr")

    def test_what_was_not_hashed_before_cannot_be_verified(self, source: Path, tmp_memory: Path) -> None:
        interrupt(source, tmp_memory / "out.zarr")
        with pytest.raises(UsageError, match="source_sha256"):
            build(source, tmp_memory / "out.zarr", verify_source=True)
        build(source, tmp_memory / "out.zarr")

    def test_other_options_are_refused(self, source: Path, tmp_memory: Path) -> None:
        interrupt(source, tmp_memory / "out.zarr")
        with pytest.raises(UsageError, match="asked for something else"):
            build(source, tmp_memory / "out.zarr", dtype="float16")
        build(source, tmp_memory / "out.zarr", dtype="float16", restart=True)

    def test_nothing_is_refused_where_nothing_was_written(self, source: Path, tmp_memory: Path) -> None:
        out = tmp_memory / "out.zarr"
        with pytest.raises(StoreError):
            build(source, out, before=refusing(9, full=False, lasting=True))
        assert names(tmp_memory) == ["model", "out.zarr.building"]
        touch(weights(tmp_memory / "model"))
        build(source, out)
        assert names(tmp_memory) == ["model", "out.zarr"]


class Reads:
    """Counts what is read of weights, and does something at one of these reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, do: Callable[[], None]) -> None:
        self.count = 0
        read = OpenFiles.read_tensor

        def counted(files: OpenFiles, *arguments: Any) -> memoryview:
            self.count += 1
            if self.count == at:
                do()
            return read(files, *arguments)

        monkeypatch.setattr(OpenFiles, "read_tensor", counted)


class TestWhileItIsRead:
    def changing(
        self, source: Path, scratch: Path, change: Callable[[Path], None], step: int, **options: Any
    ) -> list[SourceError]:
        """Build, again and again, with a change at each of the reads; each must be refused."""
        directory, errors = scratch / "model", list[SourceError]()
        file = weights(directory)
        shutil.copytree(directory, scratch / "kept")
        with pytest.MonkeyPatch.context() as patch:
            reads = Reads(patch, -1, lambda: None)
            build(source, scratch / "probe.zarr", **options)
        shutil.rmtree(scratch / "probe.zarr")
        for at in range(1, reads.count + 1, step):
            with pytest.MonkeyPatch.context() as patch:
                Reads(patch, at, lambda: change(file))
                with pytest.raises((SourceChanged, TruncatedSource)) as caught:
                    build(source, scratch / "out.zarr", **options)
            assert caught.value.file == str(file)
            errors.append(caught.value)
            assert names(scratch) == ["kept", "model"]
            shutil.rmtree(directory)
            shutil.copytree(scratch / "kept", directory)
        build(source, scratch / "out.zarr", **options)
        return errors

    def test_a_source_that_is_cut_at_any_tile_is_refused(self, source: Path, tmp_memory: Path) -> None:
        errors = self.changing(source, tmp_memory, lambda path: os.truncate(path, 4096), 1)
        assert all(error.expected is not None and error.found is not None for error in errors)

    def test_a_source_that_is_emptied_is_refused(self, source: Path, tmp_memory: Path) -> None:
        self.changing(source, tmp_memory, lambda path: os.truncate(path, 0), 5)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            (touch, "mtime_ns"),
            (grow, "size"),
            (lambda path: keeping_times(change_header, path), "header_sha256"),
            (Path.unlink, None),
        ],
        ids=["touched", "grown", "other header", "removed"],
    )
    def test_a_change_at_any_tile_is_refused_at_the_end(
        self, source: Path, tmp_memory: Path, change: Callable[[Path], None], field: str | None
    ) -> None:
        for error in self.changing(source, tmp_memory, change, 6):
            assert isinstance(error, SourceChanged)
            assert error.field == field
            assert error.found is not None
            assert error.expected is not None or field is None

    def test_another_file_in_its_place_is_refused(self, source: Path, tmp_memory: Path) -> None:
        def replace(path: Path) -> None:
            path.with_suffix(".new").write_bytes(path.read_bytes()[:-32] + bytes(32))
            path.with_suffix(".new").rename(path)

        for error in self.changing(source, tmp_memory, replace, 6):
            assert error.field == "mtime_ns"

    def test_other_weights_are_seen_by_hashing(self, source: Path, tmp_memory: Path) -> None:
        def change(path: Path) -> None:
            keeping_times(change_weights, path)

        for error in self.changing(source, tmp_memory, change, 6, verify_source=True):
            assert error.field == "sha256"
