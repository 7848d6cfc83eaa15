"""Nothing is believed that a power loss can take away: not a chunk, not a name, at any moment of a build."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.disk import Operation, refusing_once_journaled
from tests.support.interrupted import build, is_chunk, tree, write_latent_model, write_plain_model
from tests.support.power import CONTENTS, Drive, Loss, Node, Tree
from tests.support.trees import names
from wvindex.errors import StoreError
from wvindex.store import durable
from wvindex.store import staging as staging_module

SCENARIOS: Final = ("latent", "new", "resumed", "restart", "exchange", "renames")
STAGING: Final = "out.zarr.building"


@dataclass
class Recording:
    """A build, operation by operation, and what it should come to."""

    source: Path
    root: Path
    operations: list[Operation]
    before: list[Drive]
    expected: Tree
    old: Tree | None

    def require_sound(self, loss: Loss) -> None:
        """The target is whole or absent, and whatever the journal names is there."""
        target = loss.below("out.zarr")
        assert target in (None, self.old, self.expected), "half a store"
        if self.old is not None and target is None:
            assert loss.below(f"{STAGING}/replaced") == self.old, "the old store is lost"
        staging = loss.below(STAGING)
        assert not staging or "building.json" in staging, "nobody knows whose this directory is"
        for name in loss.journaled(STAGING):
            assert loss.tree.get(f"{STAGING}/store/{name}") == self.expected[name], f"{name} is journaled"

    def require_resumable(self, loss: Loss, scratch: Path) -> None:
        """The same command ends as if nothing had happened, and writes no journaled chunk again."""
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        loss.write(scratch)
        kept = loss.journaled(STAGING)
        target = scratch / "out.zarr"
        disk = build(self.source, target, overwrite=target.exists() or self.old is not None)
        assert tree(target) == self.expected
        assert names(scratch) == ["out.zarr"]
        created = {operation.path for operation in disk.seen if operation.kind == "create"}
        assert not created & {f"{scratch}/{STAGING}/store/{name}" for name in kept}


class Recorder:
    """Copies of the drive before each operation."""

    def __init__(self, root: Path, forgotten: Callable[[Operation], bool]) -> None:
        self.root = root
        self.forgotten = forgotten
        self.drive = Drive()
        self.drive.format(root)
        self.operations: list[Operation] = []
        self.before: list[Drive] = []

    def after(self, number: int, operation: Operation) -> None:
        self.before.append(self.drive.copy())
        self.operations.append(operation)
        if operation.kind != "fsync" or not self.forgotten(operation):
            self.drive.apply(operation, self.root)

    def interrupted(self, source: Path) -> None:
        """Build until an operation is refused, and with it all that would tidy up."""
        with pytest.raises(StoreError):
            build(source, self.root / "out.zarr", before=refusing_once_journaled(), after=self.after)


def record(
    memory: Path, scenario: str, forgotten: Callable[[Operation], bool] = lambda _: False
) -> Recording:
    """Build, keeping copies of the drive; `forgotten` says which syncs it leaves out."""
    scratch = Path(tempfile.mkdtemp(dir=memory))
    latent = scenario == "latent"
    source = write_latent_model(scratch / "new.gguf") if latent else write_plain_model(scratch / "new")
    build(source, scratch / "expected.zarr")
    root, old = scratch / "root", None
    root.mkdir()
    overwrite = scenario in {"exchange", "renames"}
    if overwrite:
        build(write_plain_model(scratch / "old", seed=1, rows=40), root / "out.zarr")
        old = tree(root / "out.zarr")
    recorder = Recorder(root, forgotten)
    if scenario in {"resumed", "restart"}:
        recorder.interrupted(source)
    exchange = durable.exchange if scenario != "renames" else lambda *_: False
    with mock.patch.object(staging_module, "exchange", exchange):
        build(
            source,
            root / "out.zarr",
            after=recorder.after,
            overwrite=overwrite,
            restart=scenario == "restart",
        )
    recorder.before.append(recorder.drive)
    expected = tree(scratch / "expected.zarr")
    return Recording(source, root, recorder.operations, recorder.before, expected, old)


@pytest.fixture(scope="module", params=SCENARIOS)
def recording(request: pytest.FixtureRequest, memory: Path) -> Recording:
    return record(memory, request.param)


def losses(drive: Drive) -> Iterator[Loss]:
    """Give the worst that can happen: nothing unsafe survives, or all of it but one kind, or but one name."""
    for content in CONTENTS.values():
        yield drive.after_loss(lambda _: False, content)
        yield drive.after_loss(lambda _: True, content)
    for lost in drive.pending():
        yield drive.after_loss(partial(int.__ne__, lost), CONTENTS["zeros"])
        yield drive.after_loss(partial(int.__eq__, lost), CONTENTS["all"])


def test_nothing_is_believed_that_is_not_on_the_disk(recording: Recording) -> None:
    for drive in recording.before:
        for loss in losses(drive):
            recording.require_sound(loss)


def test_a_disk_that_keeps_only_what_was_synced_lets_the_build_go_on(
    recording: Recording, tmp_memory: Path
) -> None:
    """At every operation; states that are the same are tried once."""
    tried: list[Tree] = []
    for drive in recording.before:
        loss = drive.after_loss(lambda _: False, CONTENTS["synced"])
        if loss.tree not in tried[-3:]:
            recording.require_resumable(loss, tmp_memory / "root")
            tried.append(loss.tree)
    assert len(tried) > 12


def test_a_disk_that_keeps_names_but_no_bytes_lets_the_build_go_on(
    recording: Recording, tmp_memory: Path
) -> None:
    for number, drive in enumerate(recording.before[::7]):
        content = list(CONTENTS.values())[number % len(CONTENTS)]
        recording.require_resumable(drive.after_loss(lambda _: True, content), tmp_memory / "root")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_part_of_what_was_not_synced_may_survive(
    recording: Recording, tmp_memory: Path, data: st.DataObject
) -> None:
    drive = recording.before[data.draw(st.integers(0, len(recording.before) - 1), label="operation")]
    kept = data.draw(st.sets(st.sampled_from(drive.pending() or [0])), label="changes that survive")
    shown = data.draw(st.lists(st.sampled_from(sorted(CONTENTS)), min_size=1, max_size=5), label="contents")

    def content(node: Node) -> bytes:
        return CONTENTS[shown[drive.nodes.index(node) % len(shown)]](node)

    loss = drive.after_loss(kept.__contains__, content)
    recording.require_sound(loss)
    recording.require_resumable(loss, tmp_memory / "root")


class TestTheModelItself:
    """A simulation that cannot fail proves nothing."""

    @pytest.mark.parametrize(
        ("forgotten", "fault"),
        [
            (lambda operation: is_chunk(operation.path), "is journaled"),
            (lambda operation: operation.path.endswith("/a"), "is journaled"),
            (lambda operation: operation.path.endswith("catalog.json"), "half a store"),
            (lambda operation: operation.path.endswith(STAGING), "whose this directory is"),
        ],
    )
    def test_it_shows_what_a_forgotten_sync_costs(
        self, memory: Path, forgotten: Callable[[Operation], bool], fault: str
    ) -> None:
        recording = record(memory, "new", forgotten)
        with pytest.raises(AssertionError, match=fault):
            for drive in recording.before:
                for loss in losses(drive):
                    recording.require_sound(loss)
