"""Every chunk's presence, length and checksum, and the count of what is not finite, on several threads."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import ChunkError, StoreReplaced, UndecodableType, WvindexError
from wvindex.formats.finite import count_nonfinite
from wvindex.formats.workers import share
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.checksum import crc32c
from wvindex.store.layout import ChunkGrid
from wvindex.store.objects import ChunkFile, LocalObjects, Objects
from wvindex.verifying.documents import checksum_text, fault_of
from wvindex.verifying.report import Fault, Findings

PIECE_BYTES: Final = 1 << 20
"""Bytes read, summed and counted at once by each thread: they stay in the processor's cache."""

REMOTE_PIECE_BYTES: Final = 32 << 20
"""The same where every read is a request."""

Counts = tuple[int, int] | None
"""NaN and infinite values; None where nobody decodes the encoding."""


class _Item(NamedTuple):
    """A chunk to check: its array's place in the catalog, and its index."""

    array: int
    entry: ArrayEntry
    number: int


@dataclass(frozen=True)
class ChunkTotals:
    """How much was read."""

    chunks: int
    nbytes: int


class ChunkCheck:
    """Checks the chunks of a store.

    Parameters
    ----------
    objects : Objects
    catalog : Catalog
    findings : Findings
    on_bytes : callable
        Told the key and the bytes of each chunk that was read, by one thread at a time.
    """

    def __init__(
        self, objects: Objects, catalog: Catalog, findings: Findings, on_bytes: Callable[[str, int], None]
    ) -> None:
        self._objects = objects
        self._entries = [entry for entry in catalog.arrays.values() if entry.link is None]
        self._findings = findings
        self._on_bytes = on_bytes
        self._faults: dict[tuple[int, int], Fault] = {}
        self._counts: defaultdict[int, list[Counts]] = defaultdict(list)
        self._chunks = self._nbytes = 0
        self._lock = threading.Lock()

    def run(self, n_threads: int) -> ChunkTotals:
        """Check every chunk, and keep what is wrong in the findings, in the arrays' and chunks' order."""
        items = (
            _Item(i, entry, index)
            for i, entry in enumerate(self._entries)
            for index in range(entry.grid.n_chunks)
        )
        share(items, self._work, n_threads)
        damaged = {array for array, _ in self._faults}
        by_array: defaultdict[int, list[Fault]] = defaultdict(list)
        for (array, _), fault in sorted(self._faults.items()):
            by_array[array].append(fault)
        for array, entry in enumerate(self._entries):
            self._findings.faults += by_array[array]
            if array not in damaged:
                self._check_counts(entry, self._counts[array])
        return ChunkTotals(self._chunks, self._nbytes)

    def _work(self, items: Iterator[_Item]) -> None:
        local = isinstance(self._objects, LocalObjects)
        buffer = np.empty(PIECE_BYTES if local else REMOTE_PIECE_BYTES, np.uint8)
        for item in items:
            read = _ChunkRead(self._objects, item.entry, item.number, buffer)
            fault: Fault | None = None
            counts: Counts = None
            try:
                found = read.checksum()
                counts = read.counts()
                fault = _checksum_fault(item, found)
            except StoreReplaced:
                raise
            except WvindexError as error:
                fault = _read_fault(item, error)
            with self._lock:
                self._keep(item, fault, counts)

    def _keep(self, item: _Item, fault: Fault | None, counts: Counts) -> None:
        self._chunks += 1
        if fault is not None:
            self._faults[item.array, item.number] = fault
        if fault is None or fault.kind == "checksum":
            nbytes = item.entry.grid.chunk_nbytes(item.number)
            self._nbytes += nbytes
            self._on_bytes(item.entry.spec.key, nbytes)
        self._counts[item.array].append(counts)

    def _check_counts(self, entry: ArrayEntry, counts: list[Counts]) -> None:
        """Compare the counts of an array whose chunks are all sound."""
        known = [count for count in counts if count is not None]
        if entry.nan is None or entry.inf is None or len(known) < len(counts):
            self._findings.skip("nonfinite", entry.spec.key, f"nobody decodes {entry.spec.encoding.name}")
            return
        found = (sum(nan for nan, _ in known), sum(inf for _, inf in known))
        if found != (entry.nan, entry.inf):
            self._findings.fault(
                "nonfinite",
                f"{entry.nan} NaN, {entry.inf} infinite",
                f"{found[0]} NaN, {found[1]} infinite",
                tensor=entry.spec.key,
                path=entry.path,
            )


class _ChunkRead:
    """Reads one chunk piece by piece: rows that are whole units, then scales and padding."""

    def __init__(self, objects: Objects, entry: ArrayEntry, index: int, buffer: NDArray[np.uint8]) -> None:
        self._objects = objects
        self._entry = entry
        self._grid = entry.grid
        self._index = index
        self._buffer = buffer
        self._piece_bytes = buffer.size
        path = f"{entry.path}/{self._grid.name(index)}"
        self._chunk = ChunkFile(entry.spec.key, path, self._grid.chunk_nbytes(index))
        self._scales: NDArray[np.float32] | None = None
        self._nan = self._inf = 0
        self._is_counted = True

    def checksum(self) -> int:
        """Read the whole chunk; give its crc32c."""
        row_nbytes = self._grid.row_nbytes(self._index)
        if self._entry.spec.encoding.scale_block is not None:
            self._scales = self._read_scales(row_nbytes)
        value, offset = 0, 0
        while offset < self._chunk.nbytes:
            stop = min(offset + self._step(), row_nbytes) if offset < row_nbytes else self._chunk.nbytes
            stop = min(stop, offset + max(self._step(), 1))
            piece = self._take(offset, stop)
            value = crc32c([piece.data], value)
            if stop <= row_nbytes:
                self._count(piece, offset)
            offset = stop
        return value

    def counts(self) -> Counts:
        """Give the NaN and infinite values of what was read."""
        return (self._nan, self._inf) if self._is_counted else None

    def _step(self) -> int:
        """Give the bytes of a piece: whole blocks; of FP8 with scales whole rows of scale blocks."""
        spec = self._entry.spec
        block = spec.encoding.scale_block
        unit = spec.encoding.type_size if block is None else spec.row_bytes * block[0]
        return max(self._piece_bytes // unit, 1) * unit

    def _take(self, offset: int, stop: int) -> NDArray[np.uint8]:
        if stop - offset > self._buffer.size:
            self._buffer = np.empty(stop - offset, np.uint8)
        piece = self._buffer[: stop - offset]
        self._objects.read(self._chunk, offset, piece.data)
        return piece

    def _read_scales(self, row_nbytes: int) -> NDArray[np.float32]:
        scales = np.empty(self._grid.scale_nbytes(self._index), np.uint8)
        self._objects.read(self._chunk, row_nbytes, scales.data)
        return scales.view("<f4").reshape(-1, max(self._grid.scale_row_bytes // 4, 1))

    def _count(self, piece: NDArray[np.uint8], offset: int) -> None:
        spec = self._entry.spec
        try:
            if self._scales is None or spec.encoding.scale_block is None:
                nan, inf = count_nonfinite(piece.reshape(1, -1), spec.encoding)
            else:
                rows = piece.reshape(-1, spec.row_bytes)
                first = offset // spec.row_bytes // spec.encoding.scale_block[0]
                n = -(-len(rows) // spec.encoding.scale_block[0])
                nan, inf = count_nonfinite(rows, spec.encoding, self._scales[first : first + n])
        except UndecodableType:
            self._is_counted = False
            return
        self._nan += nan
        self._inf += inf


def _checksum_fault(item: _Item, found: int) -> Fault | None:
    expected = item.entry.crc32c[item.number]
    if found == expected:
        return None
    others = [i for i, value in enumerate(item.entry.crc32c) if value == found]
    grid = item.entry.grid
    hint = f", which is {grid.name(others[0])}'s" if others else ""
    return _fault(item, "checksum", checksum_text(expected), f"{found:08x}{hint}")


def _read_fault(item: _Item, error: WvindexError) -> Fault:
    expected = f"{item.entry.grid.chunk_nbytes(item.number)} bytes"
    if not isinstance(error, ChunkError):
        return _fault(item, fault_of(error), "a regular file", error.message)
    kind = "chunk_missing" if error.found == "no file" else "chunk_length"
    return _fault(item, kind, expected, str(error.found))


def _fault(item: _Item, kind: str, expected: str, found: str) -> Fault:
    name = ChunkGrid.name(item.entry.grid, item.number)
    return Fault(
        kind=kind,
        expected=expected,
        found=found,
        tensor=item.entry.spec.key,
        chunk=name,
        path=f"{item.entry.path}/{name}",
    )
