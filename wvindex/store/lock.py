"""The exclusive right to build in a directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wvindex.errors import BuildLocked
from wvindex.store.durable import make_directory, reporting


class BuildLock:
    """The exclusive right to build in the directory `path`, which is made where it is missing.

    The lock is the kernel's (flock), on the directory itself: it ends with its process, however that
    ends, and leaves no file behind.

    Parameters
    ----------
    path : Path
    doing : str
        What another holder of the lock is doing, for messages.
    """

    def __init__(self, path: Path, *, doing: str = "building this store") -> None:
        self.path = path
        self._doing = doing
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        BuildLocked
            If another build has it.
        """
        while self._descriptor is None:
            with reporting("make the build directory", self.path):
                make_directory(self.path)
                try:
                    descriptor = os.open(
                        self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    )
                except FileNotFoundError:
                    continue  # published or removed by another build since
            with reporting("lock the build directory", self.path):
                if self._is_locked(descriptor):
                    self._descriptor = descriptor

    def _is_locked(self, descriptor: int) -> bool:
        """Lock `descriptor`; False, and closed, where the path now names another directory."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            is_locked = False
        except BlockingIOError:
            os.close(descriptor)
            raise BuildLocked(f"another process is {self._doing}", file=self.path) from None
        except OSError:
            os.close(descriptor)
            raise
        if not is_locked:
            os.close(descriptor)
        return is_locked

    def release(self) -> None:
        """Give the lock back. The directory stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
