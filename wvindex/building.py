"""The build: where sources, plans and stores meet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wvindex._version import __version__
from wvindex.errors import LimitExceeded, UsageError
from wvindex.formats.arrays import ByteRange, Link
from wvindex.limits import PROCESS_BYTES
from wvindex.sizes import format_size, parse_size
from wvindex.sources.base import Source
from wvindex.sources.detect import open_source
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.layout import array_path
from wvindex.store.links import LinkedFiles, link_paths
from wvindex.store.writer import PendingArray, StoreWriter
from wvindex.transform.links import FileRange, byte_ranges
from wvindex.transform.plan import Operation, Plan, Refusal, plan_source, require_representable
from wvindex.transform.rows import Rows

_ARRAYS_IN_FLIGHT = 8
"""Arrays that may be on their way to the disk while the next is read; their tiles are bounded apart."""

_LEAST_WORKSPACE = 16 << 20
"""Below this, chunks of 4 MiB and their copies do not fit."""


@dataclass(frozen=True)
class Progress:
    """How far a build is.

    Attributes
    ----------
    bytes_done, bytes_total : int
        Encoded bytes written, and of the whole store.
    key : str
        The array in hand.
    """

    bytes_done: int
    bytes_total: int
    key: str


def plan(
    source: str | os.PathLike[str],
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
) -> Plan:
    """Plan a build without writing anything: what would be stored, from what, and what could not be.

    Parameters
    ----------
    source : path
        A GGUF file (or any shard of one), a safetensors file, or a directory of them.
    mla : {"absorb", "keep", "both"}
        How Multi-head Latent Attention is stored: as dense Q, K and V, as its low-rank factors, or both.
    dtype : {"keep", "float32", "float16", "bfloat16"}
        ``keep`` stores weights as they come, packed blocks included. Vectors are never narrowed.
    absorbed_dtype : {"float32", "float16", "bfloat16"}
        Storage of what absorption works out.

    Returns
    -------
    Plan
        Of headers only: its operations can be listed, not run, once this returns.

    Raises
    ------
    SourceError
        If the source cannot be read.
    UsageError
        If an option has no such value.
    """
    with open_source(Path(source)) as opened:
        return _plan(opened, mla=mla, dtype=dtype, absorbed_dtype=absorbed_dtype)


def _plan(source: Source, **options: str) -> Plan:
    """Plan, and refuse what the store has no place for: a name too long for a file."""
    planned = plan_source(source, **options)
    refusals = list(planned.refusals)
    for operation in planned.operations:
        try:
            array_path(operation.spec.key)
        except LimitExceeded as error:
            refusals.append(Refusal(operation.spec.key, error))
    return replace(planned, refusals=tuple(refusals))


def build(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
    link: bool = False,
    max_memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Turn a checkpoint into a store.

    Parameters
    ----------
    source, mla, dtype, absorbed_dtype
        As in `plan`.
    out : path, optional
        ``<stem>.zarr`` in the working directory where not given.
    link : bool
        Do not copy arrays whose encoded bytes are in the source as they would be stored: the store refers
        to them by byte ranges, and cannot be read without the source. The two may move together; a
        source that has changed since is refused (`SourceChanged`).
    max_memory : int or str
        Bytes, or such as ``"512MiB"``: how much memory the build may use.
    overwrite : bool
        Replace a wvindex store at `out`, once the new one is complete. Nothing else is ever replaced.
    progress : callable, optional
        Called with a `Progress` as arrays and chunks are written.

    Returns
    -------
    Path
        Of the store.

    Raises
    ------
    SourceError
        If the source cannot be read.
    UnsupportedError
        If it holds what cannot be represented as asked; nothing is written then.
    TargetExists, BuildLocked, StoreError
        If the store cannot be written.
    UsageError
        If an option has no such value, or `max_memory` is too little for this model.
    """
    budget = parse_size(max_memory)
    with open_source(Path(source)) as opened:
        planned = _plan(opened, mla=mla, dtype=dtype, absorbed_dtype=absorbed_dtype)
        require_representable(planned)
        _require_memory(planned, budget)
        target = Path(out) if out is not None else Path(f"{_stem(opened)}.zarr")
        linker = _Linker(opened, target) if link else None
        with StoreWriter(target, overwrite=overwrite) as writer:
            arrays = _write_arrays(planned, writer, linker, budget, progress)
            _finish(opened, planned, writer, linker, arrays)
    return target


class _Linker:
    """Finds the arrays that need not be copied, and where a store will look for their bytes."""

    def __init__(self, source: Source, store: Path) -> None:
        self._store = store
        self._fingerprints = source.fingerprint()
        directory = source.path if source.path.is_dir() else source.path.parent
        files = [directory / file.name for file in self._fingerprints]
        self._numbers = {file: number for number, file in enumerate(files)}
        self._paths = link_paths(store, files)
        self._used: set[int] = set()

    def link(self, rows: Rows) -> Link | None:
        """Give the link to an array's rows; None where they must be written."""
        found = byte_ranges(rows)
        if found is None:
            return None
        link = Link(rows=self._numbered(found.rows), scales=self._numbered(found.scales))
        self._used |= {part.file for part in (*link.rows, *link.scales)}
        return link

    def _numbered(self, ranges: Iterable[FileRange]) -> tuple[ByteRange, ...]:
        return tuple(ByteRange(self._numbers[file], offset, nbytes) for file, offset, nbytes in ranges)

    def links(self) -> tuple[str, ...]:
        """Give the paths of the source's files; none where nothing was linked.

        Raises
        ------
        SourceChanged
            If a file is no longer the one that was opened.
        """
        files = LinkedFiles(self._store, self._paths, self._fingerprints)
        try:
            for number in sorted(self._used):
                files.verify(number)
        finally:
            files.close()
        return self._paths if self._used else ()


def _write_arrays(
    planned: Plan,
    writer: StoreWriter,
    linker: _Linker | None,
    budget: int,
    progress: Callable[[Progress], None] | None,
) -> dict[str, ArrayEntry]:
    arrays: dict[str, ArrayEntry] = {}
    pending: deque[tuple[str, PendingArray]] = deque()
    done = 0

    def report(key: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(Progress(done, planned.bytes_out, key))

    def finish_oldest() -> None:
        key, array = pending.popleft()
        arrays[key] = array.finish(partial(report, key))

    for operation in planned.operations:
        spec, rows = operation.spec, operation.rows
        link = linker.link(rows) if linker is not None else None
        if link is not None:
            arrays[spec.key] = writer.link_array(spec, link)
            report(spec.key, spec.nbytes)
            continue
        workspace = _workspace(operation, budget)
        pending.append((spec.key, writer.start_array(spec, rows, workspace=workspace)))
        if len(pending) > _ARRAYS_IN_FLIGHT:
            finish_oldest()
    while pending:
        finish_oldest()
    return {operation.spec.key: arrays[operation.spec.key] for operation in planned.operations}


def _finish(
    source: Source,
    planned: Plan,
    writer: StoreWriter,
    linker: _Linker | None,
    arrays: Mapping[str, ArrayEntry],
) -> None:
    """Write what is not weights: the tokenizer and the catalog."""
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        writer.add_tokenizer(tokenizer)
    writer.finish(
        Catalog(
            config=planned.config,
            generator=f"wvindex {__version__}",
            sources=source.fingerprint(),
            source_format=source.format,
            options={**planned.options, "link": True} if linker is not None else planned.options,
            source_config=source.config(),
            ledger=planned.ledger,
            arrays=arrays,
            links=linker.links() if linker is not None else (),
        )
    )


def _workspace(operation: Operation, budget: int) -> int:
    """Give the bytes that a tile of output may take; what it is made from and its copies need as much."""
    return max((budget - PROCESS_BYTES - operation.fixed_bytes) // 4, 0)


def _require_memory(planned: Plan, budget: int) -> None:
    fixed = max((operation.fixed_bytes for operation in planned.operations), default=0)
    least = PROCESS_BYTES + fixed + _LEAST_WORKSPACE
    if budget < least:
        raise UsageError(
            "this model cannot be built in so little memory",
            field="max_memory",
            expected=f"at least {format_size(least)}",
            found=format_size(budget),
        )


def _stem(source: Source) -> str:
    """Name the store after the checkpoint: the file without its shard number, or the directory."""
    path = source.path.resolve()
    stem = path.name if path.is_dir() else path.name.removesuffix(path.suffix)
    head, _, count = stem.rpartition("-of-")
    if head and count.isdecimal():
        stem = head.rpartition("-")[0]
    return stem
