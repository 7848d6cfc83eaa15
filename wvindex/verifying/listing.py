"""What lies in a store beside what its catalog explains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wvindex.errors import WvindexError
from wvindex.store.catalog import Catalog
from wvindex.store.layout import STATISTICS
from wvindex.store.metadata import CATALOG_JSON, ZARR_JSON
from wvindex.store.objects import LocalObjects, Objects
from wvindex.store.remote import ZarrObjects
from wvindex.verifying.documents import groups
from wvindex.verifying.report import Findings


class Listed(NamedTuple):
    """A file of a store, by its path below the root; `is_link` where it is a symlink to a directory."""

    path: str
    is_link: bool = False


class Explained:
    """Tells which paths a catalog explains."""

    def __init__(self, catalog: Catalog) -> None:
        self._arrays = {entry.path: entry for entry in catalog.arrays.values()}
        self._groups = groups(self._arrays)
        self._documents = {ZARR_JSON, CATALOG_JSON, *catalog.files}
        self._documents |= {f"{group}/{ZARR_JSON}" for group in self._groups}

    def is_file(self, path: str) -> bool:
        """Whether a file should be at `path`."""
        parts = path.split("/")
        if path in self._documents or (parts[0] == STATISTICS and len(parts) == 2):
            return True
        depth = 3 if parts[0] == "layers" else 1  # see wvindex.store.layout.array_path
        entry, name = self._arrays.get("/".join(parts[:depth])), "/".join(parts[depth:])
        if entry is None or entry.link is not None:
            return False
        return name == ZARR_JSON or entry.grid.index(name) is not None


def check_listing(objects: Objects, catalog: Catalog, findings: Findings) -> None:
    """Find the files that nothing explains, and directories that are symlinks."""
    if not isinstance(objects, LocalObjects | ZarrObjects):
        findings.skip("extra files", objects.location, "the store cannot be listed")
        return
    if isinstance(objects, ZarrObjects) and not objects.store.supports_listing:
        findings.skip("extra files", objects.location, "the store behind cannot be listed")
        return
    explained = Explained(catalog)
    listed = (
        _local(objects.root, findings) if isinstance(objects, LocalObjects) else _remote(objects, findings)
    )
    for path, is_link in listed:
        if is_link:
            findings.fault("unsafe_path", "a directory", "a symlink", path=path)
        elif not explained.is_file(path):
            findings.fault("extra_file", "nothing", "a file", path=path)


def _local(root: Path, findings: Findings) -> Iterator[Listed]:
    """Walk a directory, through no symlink, in the order of names."""

    def refused(error: OSError) -> None:
        path = Path(error.filename).relative_to(root).as_posix()
        findings.fault("unreadable", "a directory", error.strerror, path=path)

    for directory, names, files in os.walk(root, onerror=refused):
        names.sort()
        here = Path(directory).relative_to(root)
        for name in names:
            if Path(directory, name).is_symlink():
                yield Listed((here / name).as_posix(), is_link=True)
        for name in sorted(files):
            yield Listed((here / name).as_posix())


def _remote(objects: ZarrObjects, findings: Findings) -> Iterator[Listed]:
    from zarr.core.sync import sync

    async def names() -> list[str]:
        return [name async for name in objects.store.list()]

    try:
        found = sync(names())
    except WvindexError:
        raise
    except Exception as error:  # each library has errors of its own
        found = []
        findings.fault("unreadable", "a list of the objects", f"{type(error).__name__}: {error}")
    for name in sorted(found):
        yield Listed(name)
