"""``wvindex.verify``: whether a store is what was written, and what its source says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wvindex.building import Progress
from wvindex.errors import NotAStore, UsageError
from wvindex.formats.kernels import parallel
from wvindex.store.catalog import Catalog
from wvindex.store.objects import Objects
from wvindex.store.remote import open_objects
from wvindex.store.staging import BUILDING_JSON, staging_of
from wvindex.verifying.chunks import ChunkCheck, ChunkTotals
from wvindex.verifying.documents import check_documents, check_root, unfinished
from wvindex.verifying.ledger import check_ledger, check_linked_files
from wvindex.verifying.listing import check_listing
from wvindex.verifying.report import KINDS, Fault, Findings, Unchecked, Verification

if TYPE_CHECKING:
    import zarr.abc.store

    from wvindex.verifying.against_source import SourceTotals

__all__ = ["KINDS", "Fault", "Unchecked", "Verification", "verify"]


def verify(
    path: str | os.PathLike[str] | zarr.abc.store.Store,
    source: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Check a store, and repair nothing.

    Parameters
    ----------
    path : path, URL or Zarr store
    source : path, optional
        The checkpoint that the store was made from. Every array is compared with it once more, read and
        decoded by the ``gguf`` package, by ``safetensors`` and ``ml_dtypes``, or by TensorStore.
    config : path, optional
        Of a `source` that is a MaxText checkpoint.
    threads : int, optional
        How many read and compare; as many as there are processors where not given.
    progress : callable, optional
        Called with a `wvindex.Progress` as chunks are read, by one thread at a time.

    Returns
    -------
    Verification
        With every fault, not the first alone, and with what could not be checked.

    Raises
    ------
    NotAStore, StoreVersionError
        If `path` is no store, an unfinished one, or of a newer format.
    SourceError, UnsupportedError
        If `source` cannot be read.
    UsageError
        If `threads` is not positive.
    """
    n_threads = threads if threads is not None else parallel.threads()
    if n_threads < 1:
        raise UsageError("threads are counted from 1", field="threads", found=threads)
    objects = _open(path)
    try:
        return _verify(objects, source, config, n_threads, progress)
    finally:
        objects.close()


def _open(path: str | os.PathLike[str] | zarr.abc.store.Store) -> Objects:
    """Open a store's objects; where a build of it stands instead, say so."""
    try:
        return open_objects(path)
    except NotAStore as error:
        if isinstance(path, str | os.PathLike):
            staging = staging_of(Path(path))
            if (staging / BUILDING_JSON).is_file():
                raise unfinished(staging) from error
        raise


def _verify(
    objects: Objects,
    source: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    n_threads: int,
    progress: Callable[[Progress], None] | None,
) -> Verification:
    findings, started = Findings(), time.monotonic()
    catalog = check_root(objects, findings)
    chunks, compared = ChunkTotals(0, 0), None
    seconds = 0.0
    if catalog is not None:
        report = _Reporter(catalog, progress, compares=source is not None)
        check_documents(objects, catalog, findings)
        chunks = ChunkCheck(objects, catalog, findings, report).run(n_threads)
        check_listing(objects, catalog, findings)
        check_ledger(catalog, findings)
        check_linked_files(objects, catalog, findings)
        seconds = time.monotonic() - started
        if source is not None:
            compared = _compare(objects, catalog, source, config, findings, report, n_threads)
    return Verification(
        path=objects.location,
        source=os.fspath(source) if source is not None else None,
        faults=tuple(findings.faults),
        unchecked=tuple(findings.unchecked),
        notes=tuple(findings.notes),
        arrays=len(catalog.arrays) if catalog is not None else 0,
        chunks=chunks.chunks,
        bytes_checked=chunks.nbytes,
        seconds=seconds,
        compared=dict(compared.compared) if compared is not None else {},
        bytes_compared=compared.nbytes if compared is not None else 0,
        compare_seconds=compared.seconds if compared is not None else 0.0,
    )


def _compare(
    objects: Objects,
    catalog: Catalog,
    source: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    findings: Findings,
    report: _Reporter,
    n_threads: int,
) -> SourceTotals:
    # gguf and safetensors are imported only here.
    from wvindex.verifying.against_source import check_source

    return check_source(objects, catalog, source, config, findings, report, n_threads)


class _Reporter:
    """Adds up what was read, and tells the caller."""

    def __init__(
        self, catalog: Catalog, progress: Callable[[Progress], None] | None, *, compares: bool
    ) -> None:
        entries = catalog.arrays.values()
        self._total = sum(
            entry.grid.chunk_nbytes(index)
            for entry in entries
            if entry.link is None
            for index in range(entry.grid.n_chunks)
        )
        self._total += sum(entry.spec.nbytes for entry in entries) if compares else 0
        self._progress = progress
        self._done = 0

    def __call__(self, key: str, nbytes: int) -> None:
        """Count `nbytes` of the array `key`."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, key))
