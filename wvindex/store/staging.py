"""The directory ``<store>.building/``, in which a store stands until it is whole.

::

    building.json   what is being built: sources, options
    journal         which directory `store` is, and its chunks that are on the disk for good
    store/          the store
    replaced/       the store that stood at the path before, where the system cannot exchange two directories
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wvindex.errors import SourceChanged, StoreError, TargetExists, UsageError
from wvindex.store.durable import (
    exchange,
    fsync_paths,
    make_directory,
    remove_file,
    remove_tree,
    rename,
    reporting,
    write_file,
)
from wvindex.store.journal import Journal
from wvindex.store.metadata import dumps

SUFFIX: Final = ".building"
BUILDING_JSON: Final = "building.json"
"""Says that a directory is a build's; a finished store has none."""

_JOURNAL: Final = "journal"
_STORE: Final = "store"
_REPLACED: Final = "replaced"
_OURS: Final = {BUILDING_JSON, _JOURNAL, _STORE, _REPLACED}


def staging_of(target: Path) -> Path:
    """Give the directory in which the store `target` is built."""
    return target.with_name(f"{target.name}{SUFFIX}")


def aside_of(target: Path) -> Path:
    """Give where a store stands while another takes its place, where the two cannot be exchanged."""
    return staging_of(target) / _REPLACED


class Staging:
    """The building directory of the store `target`. Its lock must be held.

    Attributes
    ----------
    path, store : Path
        The building directory, and the store in it.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = staging_of(target)
        self.store = self.path / _STORE

    def recover(self) -> None:
        """Put back a store that an interrupted overwrite had moved aside.

        Raises
        ------
        TargetExists
            If the directory holds what no build put there.
        """
        names = {entry.name for entry in self._entries()}
        if names and not (BUILDING_JSON in names and names <= _OURS):
            raise TargetExists("the directory to build in holds something else", file=self.path)
        aside = aside_of(self.target)
        if _REPLACED in names and not os.path.lexists(self.target):
            rename(aside, self.target)

    def begin(self, identity: Mapping[str, Any] | None, *, restart: bool) -> Journal:
        """Go on with the build that stands here, or start one.

        Parameters
        ----------
        identity : mapping or None
            JSON values that tell this build from others; its ``sources`` are named apart where they
            differ. None never goes on.
        restart : bool
            Discard what stands here.

        Returns
        -------
        Journal
            What is already written; every other file is gone.

        Raises
        ------
        SourceChanged
            If an interrupted build stands here whose source was another.
        UsageError
            If it was of the same source, but asked for something else.
        """
        journal = None if restart or identity is None else self._interrupted(identity)
        if journal is None:
            self.clear()
            return self._start(identity)
        self._sweep(journal)
        return journal

    def holds_chunks(self) -> bool:
        """Whether a build would find something to go on with."""
        return bool(Journal(self.path / _JOURNAL).chunks)

    def publish(self) -> None:
        """Give the store, all of which is synced, its name; a store that stands there goes."""
        if not os.path.lexists(self.target):
            rename(self.store, self.target)
        elif not exchange(self.store, self.target):
            aside = aside_of(self.target)
            rename(self.target, aside)
            try:
                rename(self.store, self.target)
            except StoreError:
                rename(aside, self.target)
                raise
        self.discard()

    def clear(self) -> None:
        """Remove what is in the directory; last what says that it is a build's."""
        for entry in sorted(self._entries(), key=lambda entry: entry.name == BUILDING_JSON):
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            else:
                remove_file(entry)

    def discard(self) -> None:
        """Remove the directory."""
        self.clear()
        with reporting("remove a directory", self.path):
            self.path.rmdir()

    def _entries(self) -> list[Path]:
        with reporting("list a directory", self.path):
            return list(self.path.iterdir())

    def _start(self, identity: Mapping[str, Any] | None) -> Journal:
        write_file(self.path / BUILDING_JSON, [dumps({"wvindex": identity})])
        make_directory(self.store)
        journal = Journal(self.path / _JOURNAL)
        journal.start(self.store.stat().st_ino)
        fsync_paths([self.path / BUILDING_JSON, self.store])
        fsync_paths([self.path, self.path.parent])
        return journal

    def _interrupted(self, identity: Mapping[str, Any]) -> Journal | None:
        """Give the journal of the build that was interrupted, None if there was none.

        After an overwrite was interrupted behind its last step, `store` is another directory: the store that
        was replaced.
        """
        journal = Journal(self.path / _JOURNAL)
        try:
            found = json.loads((self.path / BUILDING_JSON).read_bytes())["wvindex"]
            if found is None or journal.directory != self.store.stat(follow_symlinks=False).st_ino:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _require_same(found, json.loads(dumps(identity)), self.path)
        return journal

    def _sweep(self, journal: Journal) -> None:
        """Remove every file that is not journaled: metadata is written anew, and so is half a chunk."""
        for directory, _, names in os.walk(self.store):
            for name in names:
                file = Path(directory, name)
                if file.relative_to(self.store).as_posix() not in journal.chunks:
                    remove_file(file)


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    hint = "finish that build, restart, or remove the directory"
    for name in (*wanted, *(name for name in found if name not in wanted)):
        before, now = found.get(name), wanted.get(name)
        if before == now:
            continue
        if name == "sources":
            raise SourceChanged(
                f"the source has changed since the build that was interrupted; {hint}",
                file=path,
                field=name,
                expected=before,
                found=now,
            )
        raise UsageError(
            f"a build that was interrupted stands here, and was asked for something else; {hint}",
            file=path,
            field=name,
            expected=before,
            found=now,
        )
