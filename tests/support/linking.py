"""Linked stores: made of arrays in memory, or built; and what they link to, read by other means."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.arrays import MemoryArray, catalog_of
from wvindex.formats.arrays import ByteRange, Link
from wvindex.sources.base import FileFingerprint, Source, TensorInfo
from wvindex.store.links import link_paths
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

N_FILES = 3
HEADER = b"a header of some bytes, "


class CountingSource:
    """A source that counts the bytes that are read of each of its tensors."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.bytes_of: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __enter__(self) -> CountingSource:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        self.bytes_of[info.name] = self.bytes_of.get(info.name, 0) + stop - start
        return self._source.read(info, start, stop, out)


def linked_keys(store: Path) -> set[str]:
    """Give the keys of a store's linked arrays."""
    return {key for key, entry in open_catalog(store).arrays.items() if entry.link is not None}


def linked_bytes(store: Path) -> dict[str, tuple[bytes, bytes]]:
    """Read linked arrays' rows and scales as their catalog says, with nothing but Python's own files."""
    catalog = open_catalog(store)
    links = {key: entry.link for key, entry in catalog.arrays.items() if entry.link is not None}

    def joined(ranges: Iterable[ByteRange]) -> bytes:
        return b"".join(_part(store / catalog.links[part.file], part) for part in ranges)

    return {key: (joined(link.rows), joined(link.scales)) for key, link in links.items()}


def _part(path: Path, part: ByteRange) -> bytes:
    with path.open("rb") as file:
        file.seek(part.offset)
        return file.read(part.nbytes)


def write_linked_store(
    directory: Path,
    arrays: Iterable[MemoryArray],
    *,
    copied: Iterable[MemoryArray] = (),
    chunk_bytes: int = 256,
    cuts: int = 3,
    seed: int = 0,
) -> Path:
    """Write `x.zarr`, whose arrays are ranges of `data/0.bin`, `data/1.bin` and `data/2.bin`.

    Each array's bytes are cut in up to `cuts` ranges, in places that need not be rows' ends, and strewn
    over the files with other bytes between them.
    """
    strewn = _Strewn(random.Random(seed), cuts)
    links = {a.spec.key: (a.spec, Link(strewn.put(a.raw), strewn.put(a.scales))) for a in arrays}
    paths = strewn.write(directory / "data")
    path = directory / "x.zarr"
    with StoreWriter(path, chunk_bytes=chunk_bytes) as writer:
        entries = {key: writer.link_array(spec, link) for key, (spec, link) in links.items()}
        entries |= {a.spec.key: writer.write_array(a.spec, a, workspace=1 << 20) for a in copied}
        fingerprints = tuple(map(fingerprint, paths))
        writer.finish(catalog_of(entries, sources=fingerprints, links=link_paths(path, paths)))
    return path


def fingerprint(path: Path) -> FileFingerprint:
    """Describe a file that begins with `HEADER`."""
    status = path.stat()
    digest = hashlib.sha256(HEADER).hexdigest()
    return FileFingerprint(path.name, status.st_size, status.st_mtime_ns, digest, len(HEADER))


class _Strewn:
    """Files that fill with pieces of arrays."""

    def __init__(self, rng: random.Random, cuts: int) -> None:
        self._rng = rng
        self._cuts = cuts
        self._files = [bytearray(HEADER) for _ in range(N_FILES)]

    def put(self, array: Any) -> tuple[ByteRange, ...]:
        return tuple(self._pieces(array.tobytes()))

    def _pieces(self, data: bytes) -> Iterator[ByteRange]:
        inner = (self._rng.randrange(len(data) + 1) for _ in range(self._cuts - 1))
        for start, stop in pairwise(sorted({0, *inner, len(data)})):
            number = self._rng.randrange(N_FILES)
            file = self._files[number]
            file += self._rng.randbytes(self._rng.randrange(4))
            yield ByteRange(number, len(file), stop - start)
            file += data[start:stop]

    def write(self, directory: Path) -> list[Path]:
        directory.mkdir()
        paths = [directory / f"{number}.bin" for number in range(N_FILES)]
        for path, data in zip(paths, self._files, strict=True):
            path.write_bytes(data)
        return paths
