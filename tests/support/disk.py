"""A disk between a build and the real one: it counts, refuses, records, or ends the process.

What `wvindex.store.durable` does to a disk it does through a handful of functions of `os`, and the exchange
of two directories. They are replaced, for all threads, while a `Disk` is entered; what is not below its root
passes.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from unittest import mock

from wvindex.store import durable


@dataclass(frozen=True)
class Operation:
    """One call that changes the disk.

    Attributes
    ----------
    kind : str
        ``create``, ``open`` (a file that is there), ``write``, ``fsync``, ``truncate``, ``mkdir``,
        ``rename``, ``exchange``, ``unlink`` or ``rmdir``.
    path : str
        Of what it is done to.
    other : str
        The second path of a rename or an exchange.
    data : bytes
        What is written.
    length : int
        What is left of a file that is cut.
    """

    kind: str
    path: str
    other: str = ""
    data: bytes = b""
    length: int = 0


Hook = Callable[[int, Operation], None]


class Disk:
    """Sees each operation on and below `root`, one at a time; a context manager.

    Parameters
    ----------
    root : Path
    before, after : callable, optional
        Called with an operation and its number, from 1. What `before` raises, the operation raises.

    Attributes
    ----------
    seen : list of Operation
        Without the bytes that were written.
    """

    def __init__(self, root: Path, before: Hook | None = None, after: Hook | None = None) -> None:
        self.seen: list[Operation] = []
        self._root = root
        self._before = before
        self._after = after
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        """Stand between."""
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "ftruncate")}
        self._patch(os, "open", self._open(real["open"]))
        self._patch(os, "write", self._write(real["write"]))
        self._patch(os, "fsync", self._fsync(real["fsync"]))
        self._patch(os, "ftruncate", self._truncate(real["ftruncate"]))
        for name in ("mkdir", "unlink", "rmdir"):
            self._patch(os, name, self._on_path(name, getattr(os, name)))
        self._patch(os, "rename", self._on_two_paths("rename", os.rename))
        self._patch(durable, "_swap", self._on_two_paths("exchange", durable._swap))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Step aside."""
        self._patches.close()

    def _patch(self, module: object, name: str, replacement: Callable[..., Any]) -> None:
        self._patches.enter_context(mock.patch.object(module, name, replacement))

    def _do(self, operation: Operation, call: Callable[[], Any]) -> Any:
        with self._lock:
            self.seen.append(
                Operation(operation.kind, operation.path, operation.other, length=len(operation.data))
            )
            number = len(self.seen)
            if self._before is not None:
                self._before(number, operation)
            result = call()
            if self._after is not None:
                self._after(number, operation)
            return result

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self._root)

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if not self._is_ours(path):
                with self._lock:
                    descriptor = real(path, flags, *more, **named)
                    self._paths.pop(descriptor, None)
                return descriptor
            with self._lock:
                if flags & (os.O_WRONLY | os.O_RDWR):
                    kind = "open" if os.path.lexists(path) else "create"
                    call = partial(real, path, flags, *more, **named)
                    descriptor = self._do(Operation(kind, os.fspath(path)), call)
                else:
                    descriptor = real(path, flags, *more, **named)
                self._paths[descriptor] = os.fspath(path)
            return descriptor

        return opened

    def _write(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def written(descriptor: int, data: Any) -> int:
            path = self._paths.get(descriptor)
            if path is None:
                return real(descriptor, data)
            count: int = self._do(Operation("write", path, data=bytes(data)), lambda: real(descriptor, data))
            return count

        return written

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def synced(descriptor: int) -> None:
            path = self._paths.get(descriptor)
            if path is None:
                real(descriptor)
            else:  # no test takes the power away: what is written may as well stay in the cache
                self._do(Operation("fsync", path), lambda: None)

        return synced

    def _truncate(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def cut(descriptor: int, length: int) -> None:
            path = self._paths.get(descriptor)
            if path is None:
                real(descriptor, length)
            else:
                self._do(Operation("truncate", path, length=length), lambda: real(descriptor, length))

        return cut

    def _on_path(self, kind: str, real: Callable[..., None]) -> Callable[..., None]:
        def done(path: Any, *more: Any, **named: Any) -> None:
            if self._is_ours(path):
                self._do(Operation(kind, os.fspath(path)), lambda: real(path, *more, **named))
            else:
                real(path, *more, **named)

        return done

    def _on_two_paths(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def done(path: Any, other: Any, **named: Any) -> Any:
            if not self._is_ours(path):
                return real(path, other, **named)
            operation = Operation(kind, os.fspath(path), os.fspath(other))
            return self._do(operation, lambda: real(path, other, **named))

        return done


def killing(at: int) -> Hook:
    """End the process, as `kill -9` does, before the operation with that number."""

    def before(number: int, operation: Operation) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


ERRORS: Final = {
    "create": errno.ENOSPC,
    "write": errno.ENOSPC,
    "mkdir": errno.ENOSPC,
}
"""What a full disk says; a broken one says EIO to everything."""


def refusing(at: int, *, full: bool, lasting: bool) -> Hook:
    """Refuse the operation with that number.

    Parameters
    ----------
    at : int
    full : bool
        The disk is full, so that only what takes room is refused; otherwise it is broken.
    lasting : bool
        Refuse what comes after as well.
    """

    def before(number: int, operation: Operation) -> None:
        if number == at or (lasting and number > at):
            if full and operation.kind not in ERRORS:
                return
            code = ERRORS[operation.kind] if full else errno.EIO
            raise OSError(code, os.strerror(code), operation.path)

    return before


def refusing_once_journaled() -> Hook:
    """Refuse everything, for good, after the first chunks were journaled: whatever the order of threads."""
    lines = 0

    def before(_: int, operation: Operation) -> None:
        nonlocal lines
        if operation.path.endswith(".building/journal"):
            lines += operation.kind == "write"
        if lines > 2 or (lines == 2 and not operation.path.endswith(".building/journal")):
            raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)

    return before
