"""What a disk may hold after the power went: a model of a file system that keeps only what was synced.

A file's bytes are safe as of its last fsync. A name (made, moved, removed) is safe once its directory was
synced; a rename is one change, safe once either directory was. Everything else may have reached the disk, or
not, in any combination, and bytes that have not may stand as zeros or be missing while the file's name and
length are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.support.disk import Operation
from tests.support.interrupted import journal_lines
from wvindex.store.checksum import crc32c

Tree = dict[str, bytes | None]
"""Bytes of files, None of directories, by their paths."""


@dataclass(eq=False)
class Node:
    """A file or a directory, whatever its names.

    Attributes
    ----------
    inode : int or None
        Of a directory, what the real disk called it; None of a file.
    content, synced : bytes
        Of a file, as a running system shows it, and as of its last fsync.
    """

    inode: int | None = None
    content: bytes = b""
    synced: bytes = b""


@dataclass
class Change:
    """Names that change at once: (directory, name, what it names from then on)."""

    settings: list[tuple[int, str, int | None]]
    is_safe: bool = False


@dataclass
class Drive:
    """The state at one moment: every node, every change of a name in order, safe or not."""

    nodes: list[Node] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    _now: dict[int, dict[str, int]] = field(default_factory=dict)

    def format(self, root: Path) -> None:
        """Start with what stands in a directory, all of it safe."""
        self.nodes, self.changes, self._now = [Node(root.stat().st_ino)], [], {0: {}}
        for directory, below, files in os.walk(root):
            for name in (*below, *files):
                path = Path(directory, name)
                node = Node(path.stat().st_ino) if path.is_dir() else Node(None, *[path.read_bytes()] * 2)
                self._make(path.relative_to(root).as_posix(), node)
        for change in self.changes:
            change.is_safe = True

    def apply(self, operation: Operation, root: Path) -> None:
        """Take in an operation that the real disk has just done."""
        path = os.path.relpath(operation.path, root)
        match operation.kind:
            case "create":
                self._make(path, Node())
            case "mkdir":
                self._make(path, Node(Path(operation.path).stat().st_ino))
            case "write":
                self._file(path).content += operation.data
            case "truncate":
                self._file(path).content = self._file(path).content[: operation.length]
            case "fsync":
                self._sync(self._find(path))
            case "unlink" | "rmdir":
                directory, name = self._place(path)
                self._change([(directory, name, None)])
            case "rename":
                (one, name), (other, target) = self._place(path), self._place(self._other(operation, root))
                self._change([(one, name, None), (other, target, self._now[one][name])])
            case "exchange":
                (one, name), (other, target) = self._place(path), self._place(self._other(operation, root))
                self._change([(one, name, self._now[other][target]), (other, target, self._now[one][name])])

    def pending(self) -> list[int]:
        """Give the changes that a power loss may undo."""
        return [number for number, change in enumerate(self.changes) if not change.is_safe]

    def after_loss(self, kept: Callable[[int], bool], content: Callable[[Node], bytes]) -> Loss:
        """Give what the disk holds if of all that was not safe these changes and bytes had reached it."""
        entries: dict[int, dict[str, int]] = {}
        for number, change in enumerate(self.changes):
            if change.is_safe or kept(number):
                for directory, name, node in change.settings:
                    if node is None:
                        entries.setdefault(directory, {}).pop(name, None)
                    else:
                        entries.setdefault(directory, {})[name] = node
        found = Loss({}, {})
        for path, node in self._walk(entries):
            inode = self.nodes[node].inode
            found.tree[path] = content(self.nodes[node]) if inode is None else None
            if inode is not None:
                found.inodes[path] = inode
        return found

    def _walk(self, entries: Mapping[int, Mapping[str, int]]) -> Iterator[tuple[str, int]]:
        waiting = [("", 0)]
        while waiting:
            prefix, directory = waiting.pop()
            for name, node in entries.get(directory, {}).items():
                yield f"{prefix}{name}", node
                if self.nodes[node].inode is not None:
                    waiting.append((f"{prefix}{name}/", node))

    def copy(self) -> Drive:
        """Give the state as it is now, to lose the power in."""
        nodes = [replace(node) for node in self.nodes]
        return Drive(nodes, [replace(change) for change in self.changes])

    def _make(self, path: str, node: Node) -> None:
        self.nodes.append(node)
        self._now[len(self.nodes) - 1] = {}
        directory, name = self._place(path)
        self._change([(directory, name, len(self.nodes) - 1)])

    def _change(self, settings: list[tuple[int, str, int | None]]) -> None:
        self.changes.append(Change(settings))
        for directory, name, node in settings:
            if node is None:
                del self._now[directory][name]
            else:
                self._now[directory][name] = node

    def _sync(self, number: int) -> None:
        node = self.nodes[number]
        node.synced = node.content
        for change in self.changes:
            change.is_safe |= any(directory == number for directory, _, _ in change.settings)

    def _find(self, path: str) -> int:
        node = 0
        for name in path.split("/") if path != "." else ():
            node = self._now[node][name]
        return node

    def _file(self, path: str) -> Node:
        return self.nodes[self._find(path)]

    def _place(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        return self._find(parent or "."), name

    @staticmethod
    def _other(operation: Operation, root: Path) -> str:
        return os.path.relpath(operation.other, root)


@dataclass
class Loss:
    """What a power loss has left.

    Attributes
    ----------
    tree : dict
    inodes : dict of str to int
        Of directories, as the journal knows them.
    """

    tree: Tree
    inodes: dict[str, int]

    def below(self, directory: str) -> Tree | None:
        """Give what stands in a directory; None if there is none."""
        if directory not in self.tree:
            return None
        prefix = f"{directory}/"
        return {
            path.removeprefix(prefix): data for path, data in self.tree.items() if path.startswith(prefix)
        }

    def journaled(self, staging: str) -> set[str]:
        """Give the chunks that a build would not write again."""
        lines = journal_lines(self.tree.get(f"{staging}/journal") or b"")
        store = self.inodes.get(f"{staging}/store")
        return {fields[0] for fields in lines[1:]} if lines and lines[0] == [store] else set()

    def write(self, root: Path) -> None:
        """Put it on a real disk; journals then name the directories by what that disk calls them."""
        called: dict[int, int] = {}
        for path, data in sorted(self.tree.items()):
            if data is None:
                (root / path).mkdir()
                called[self.inodes[path]] = (root / path).stat().st_ino
        for path, data in self.tree.items():
            if data is not None:
                is_journal = path.endswith(".building/journal")
                (root / path).write_bytes(_renumbered(data, called) if is_journal else data)


def _renumbered(journal: bytes, called: Mapping[int, int]) -> bytes:
    lines = journal_lines(journal)
    if not lines:
        return journal
    text = json.dumps([called.get(lines[0][0], 0)]).encode()
    return b"%08x %s\n" % (crc32c([text]), text) + journal[journal.index(b"\n") + 1 :]


def _zeros(node: Node) -> bytes:
    return node.synced + bytes(len(node.content) - len(node.synced))


def _half(node: Node) -> bytes:
    return node.content[: (len(node.synced) + len(node.content) + 1) // 2]


CONTENTS: Final[Mapping[str, Callable[[Node], bytes]]] = {
    "synced": lambda node: node.synced,
    "all": lambda node: node.content,
    "zeros": _zeros,
    "half": _half,
}
"""What may stand in a file whose bytes were not all synced."""
