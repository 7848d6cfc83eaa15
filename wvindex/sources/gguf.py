"""GGUF checkpoints: one file, or a set of shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from wvindex.sources.base import FileFingerprint, TensorInfo, TokenizerData
from wvindex.sources.files import OpenFiles, absolute
from wvindex.sources.gguf_header import GGUFHeader, read_header
from wvindex.sources.gguf_metadata import PackedArray, unpack
from wvindex.sources.gguf_shards import check_shards, later_metadata, shard_paths

_TOKENIZER: Final = "tokenizer."


class GGUFSource:
    """A GGUF checkpoint (version 2 or 3, little-endian), open for reading; a `Source`.

    Opening any shard of a set (``NAME-00003-of-00009.gguf``) opens all of it. Metadata are the first
    shard's, as in llama.cpp.

    Parameters
    ----------
    path : str or Path
        A ``.gguf`` file.

    Attributes
    ----------
    header : GGUFHeader
        The first file's, whose metadata count.
    notes : tuple of str
        What is odd in the files but does no harm, such as bytes that belong to no tensor.

    Raises
    ------
    SourceError
        If a file cannot be read or its header is not sound; see ``wvindex.errors``.
    UnsupportedError
        If it is of another version, or big-endian.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.place = absolute(self._path)
        self._files = OpenFiles()
        try:
            self._load()
        except BaseException:
            self._files.close()
            raise

    def _load(self) -> None:
        headers: list[tuple[Path, GGUFHeader]] = []
        fingerprints: list[FileFingerprint] = []
        for file, real in shard_paths(self._path).items():
            status = self._files.add(file, real)
            header = read_header(self._files, file, status.st_size)
            headers.append((file, header))
            fingerprints.append(
                FileFingerprint(file.name, status.st_size, status.st_mtime_ns, header.sha256, header.nbytes)
            )
        check_shards(headers)
        self.header = headers[0][1]
        self._metadata = self.header.metadata
        self._tensors = tuple(tensor for _, header in headers for tensor in header.tensors)
        self._fingerprints = tuple(fingerprints)
        unused = [f"{file.name}: {note}" for file, header in headers for note in header.notes]
        self.notes: tuple[str, ...] = (*unused, *later_metadata(headers))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        self.close()

    @property
    def path(self) -> Path:
        """The file that was opened."""
        return self._path

    @property
    def format(self) -> Literal["gguf"]:
        """Which reader this is."""
        return "gguf"

    def config(self) -> Mapping[str, Any]:
        """Give the metadata by key; arrays are lists, and those of ``tokenizer.*`` are left out.

        Raises
        ------
        MalformedHeader
            If a string in an array is not UTF-8.
        """
        arrays = {key for key, value in self._metadata.items() if isinstance(value, PackedArray)}
        vocabulary = {key for key in arrays if key.startswith(_TOKENIZER)}
        return unpack({key: value for key, value in self._metadata.items() if key not in vocabulary})

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor, shard by shard, by offset."""
        return self._tensors

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        """Read bytes [start, stop) of a tensor's data into `out` (or a new buffer) and return it.

        Safe from several threads at once.

        Raises
        ------
        SelectionError
            If the range does not fit the tensor.
        TruncatedSource
            If the file has become shorter than its header promised.
        UsageError
            If `out` is not ``stop - start`` writable bytes, or the source is closed.
        """
        return self._files.read_tensor(info, start, stop, out)

    def tokenizer(self) -> TokenizerData | None:
        """Give the ``tokenizer.*`` metadata, decoded; None if there are none.

        Raises
        ------
        MalformedHeader
            If a token is not UTF-8.
        """
        found = {k: v for k, v in self._metadata.items() if k.startswith(_TOKENIZER)}
        return TokenizerData(files={}, gguf=unpack(found)) if found else None

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """One fingerprint a file, in shard order, taken when the source was opened."""
        return self._fingerprints

    def close(self) -> None:
        """Close every file; not while reads are under way."""
        self._files.close()
