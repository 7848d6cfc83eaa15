"""What a database shares with its tensors: whether it is open, and how another process opens it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wvindex.errors import StoreClosed, UsageError
from wvindex.store.directory import replaced

if TYPE_CHECKING:
    from wvindex.query.database import Store


class Handle:
    """A database that is open, and from where.

    It may be pickled where the database was opened by a path or a URL: what stands there is opened again,
    and refused if it is not the same any more.

    Parameters
    ----------
    path : str or Path
        What was opened, for messages.
    reopen : callable, optional
        Opens it again; of a module, so that it can be pickled.
    identity : callable, optional
        Gives what tells this database from another one at its path.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        reopen: Callable[[], Store] | None = None,
        identity: Callable[[], str] | None = None,
    ) -> None:
        self.path = path
        self.closed = False
        self.opened: Store | None = None  # where this handle was pickled: what was opened for it
        self._reopen = reopen
        self._identity = identity

    def require_open(self) -> None:
        """See that the database is open.

        Raises
        ------
        StoreClosed
            If it was closed.
        """
        if self.closed:
            raise StoreClosed("the store is closed", file=self.path)

    def identity(self) -> str | None:
        """Give what tells this database from another one at its path; None where it has no path."""
        return self._identity() if self._identity is not None else None

    def __reduce__(self) -> tuple[Callable[..., Handle], tuple[Callable[[], Store], str | None]]:
        """Pickle as what opens it again.

        Raises
        ------
        UsageError
            If it was not opened by a path or a URL.
        StoreClosed
            If it was closed.
        """
        self.require_open()
        if self._reopen is None:
            raise UsageError(
                "only what was opened by a path or a URL can be opened again, and so pickled",
                file=self.path,
                expected="a path or a URL",
                found="something in this process's memory",
            )
        return reopened, (self._reopen, self.identity())


def reopened(reopen: Callable[[], Store], identity: str | None) -> Handle:
    """Open a database again; give its handle, which keeps it.

    Raises
    ------
    StoreReplaced
        If another one stands there by now.
    """
    store = reopen()
    if store.handle.identity() != identity:
        store.close()
        raise replaced(store.path, "what was pickled", "another")
    store.handle.opened = store
    return store.handle
