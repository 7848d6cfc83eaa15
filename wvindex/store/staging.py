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
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wvindex.errors import SourceChanged, StoreError, TargetExists, UsageError
from wvindex.store.durable import (
    exchange,
    fsync_path,
    fsync_paths,
    make_directory,
    remove_file,
    remove_tree,
    rename,
    reporting,
    walk,
    write_file,
)
from wvindex.store.journal import Journal
from wvindex.store.metadata import dumps

SUFFIX: Final = ".building"
BUILDING_JSON: Final = "building.json"
"""Says that a directory is a build's; a finished store has none."""

SOURCES: Final = "sources"
SOURCE_HASHES: Final = "source_sha256"
"""What an identity says of the source's files; see `wvindex.building`."""

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

    Parameters
    ----------
    target : Path
    suffix : str
        What the directory's name has beyond the target's.
    what : str
        What is done there, for messages.

    Attributes
    ----------
    path, store : Path
        The building directory, and the store in it.
    """

    def __init__(self, target: Path, *, suffix: str = SUFFIX, what: str = "build") -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}{suffix}")
        self.store = self.path / _STORE
        self._aside = self.path / _REPLACED
        self._what = what

    def require_directory(self) -> None:
        """Refuse to begin where something else stands than a directory.

        Raises
        ------
        TargetExists
        """
        if os.path.lexists(self.path) and (self.path.is_symlink() or not self.path.is_dir()):
            raise TargetExists(
                f"the place of the unfinished {self._what} is taken",
                file=self.path,
                expected="a directory, or nothing",
                found="a symlink" if self.path.is_symlink() else "a file",
            )

    def recover(self) -> None:
        """Put back a store that an interrupted overwrite had moved aside.

        Raises
        ------
        TargetExists
            If the directory holds what no build put there.
        """
        names = {entry.name for entry in self._entries()}
        if names and not (BUILDING_JSON in names and names <= _OURS):
            raise TargetExists(
                f"the directory for the unfinished {self._what} holds something else", file=self.path
            )
        if _REPLACED in names:
            self._put_back()

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
            try:
                return self._start(identity)
            except StoreError:
                with suppress(StoreError):
                    self.discard()
                raise
        self._sweep(journal)
        return journal

    def is_resumable(self) -> bool:
        """Whether a build would find something to go on with."""
        return self._is_journal_of_store(Journal(self.path / _JOURNAL))

    def publish(self, require_replaceable: Callable[[Path], None]) -> None:
        """Give the store, all of which is synced, its name; a store that stands there is moved in here.

        Parameters
        ----------
        require_replaceable : callable
            Raises `TargetExists` for what may not be replaced, and may have come to stand there meanwhile.
        """
        if not os.path.lexists(self.target):
            rename(self.store, self.target)
            return
        require_replaceable(self.target)
        if exchange(self.store, self.target):
            try:
                require_replaceable(self.store)
            except TargetExists:
                exchange(self.store, self.target)
                raise
            return
        try:
            rename(self.target, self._aside)
            rename(self.store, self.target)
        except BaseException:
            self._put_back()
            raise

    def clear(self) -> None:
        """Remove what is in the directory: first what says that chunks are there, last that it is a build's.

        Synced step by step, or a power loss might keep any of these names and lose the others.
        """
        for entry in (self.path / name for name in (_JOURNAL, _STORE, _REPLACED, BUILDING_JSON)):
            if not os.path.lexists(entry):
                continue
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            else:
                remove_file(entry)
            fsync_path(self.path)

    def discard(self) -> None:
        """Remove the directory."""
        self.clear()
        with reporting("remove a directory", self.path):
            self.path.rmdir()

    def remove_empty(self) -> None:
        """Remove the directory if nothing is in it."""
        with suppress(OSError):
            self.path.rmdir()

    def _entries(self) -> list[Path]:
        with reporting("list a directory", self.path):
            return list(self.path.iterdir())

    def _start(self, identity: Mapping[str, Any] | None) -> Journal:
        write_file(self.path / BUILDING_JSON, [dumps({"wvindex": identity})])
        fsync_path(self.path / BUILDING_JSON)
        fsync_path(self.path)  # before any other name: only this one says that the directory is a build's
        make_directory(self.store)
        journal = Journal(self.path / _JOURNAL)
        journal.start(self.store.stat().st_ino)
        fsync_path(self.store)
        fsync_paths([self.path, self.path.parent])
        return journal

    def _put_back(self) -> None:
        """Give the store that was moved aside its name again, unless the new one has it."""
        if os.path.lexists(self._aside) and not os.path.lexists(self.target):
            rename(self._aside, self.target)

    def _interrupted(self, identity: Mapping[str, Any]) -> Journal | None:
        """Give the journal of the build that was interrupted, None if there was none.

        After an overwrite was interrupted behind its last step, `store` is another directory: the store that
        was replaced.
        """
        journal = Journal(self.path / _JOURNAL)
        if not self._is_journal_of_store(journal):
            return None
        found = self._identity()
        if found is None:
            return None
        _require_same(found, json.loads(dumps(identity)), self.path, self._what)
        return journal

    def _is_journal_of_store(self, journal: Journal) -> bool:
        with reporting("look at a directory", self.store):
            try:
                inode = self.store.stat(follow_symlinks=False).st_ino
            except FileNotFoundError:
                return False
        return bool(journal.files) and journal.directory == inode

    def _identity(self) -> dict[str, Any] | None:
        with reporting("read a file", self.path / BUILDING_JSON):
            try:
                found = json.loads((self.path / BUILDING_JSON).read_bytes())["wvindex"]
            except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
                return None
        return found if isinstance(found, dict) else None

    def _sweep(self, journal: Journal) -> None:
        """Remove every file that is not journaled: metadata is written anew, and so is half a chunk."""
        _, files = walk(self.store)
        for file in files:
            if file.relative_to(self.store).as_posix() not in journal.files:
                remove_file(file)


def _hint(what: str) -> str:
    return f"finish that {what}, restart, or remove the directory"


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, what: str) -> None:
    for name in (*wanted, *(name for name in found if name not in wanted)):
        before, now = found.get(name), wanted.get(name)
        if before == now:
            continue
        if name == SOURCES and before and now:
            _require_same_files(
                *({file["name"]: file for file in files} for files in (before, now)), what=what
            )
        if name == SOURCE_HASHES and before and now:
            _require_same_files(
                *({file: {"sha256": digest} for file, digest in files.items()} for files in (before, now)),
                what=what,
            )
        raise UsageError(
            f"the {what} that was interrupted here was asked for something else; {_hint(what)}",
            file=path,
            field=name,
            expected=before,
            found=now,
        )


def _require_same_files(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], *, what: str
) -> None:
    """Refuse files of another content, naming the first and what of it differs."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        fields = [field for field in old if old[field] != new.get(field)] if old and new else ["name"]
        if not fields:
            continue
        raise SourceChanged(
            f"the sources have changed since the {what} that was interrupted; {_hint(what)}",
            file=name,
            field=fields[0],
            expected=old[fields[0]] if old else "no such file",
            found=new[fields[0]] if new else "no such file",
        )
