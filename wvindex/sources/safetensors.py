"""safetensors checkpoints: one file, a directory, an index with its shards, a hub snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import FileFingerprint, TensorInfo, TokenizerData
from wvindex.sources.files import OpenFiles, absolute, read_beside
from wvindex.sources.safetensors_header import SafetensorsHeader, read_header
from wvindex.sources.safetensors_index import check_shards, locate
from wvindex.sources.strict_json import parse_object

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What is kept of a tokenizer, under the names that Hugging Face gives."""

CONFIG_JSON: Final = "config.json"

VOCABULARY_FILES: Final = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json"})


class SafetensorsSource:
    """A safetensors checkpoint, open for reading; a `Source`.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file; an index (``*.safetensors.index.json``); or a directory, also a Hugging
        Face hub snapshot, whose files are symlinks into ``blobs``. A shard that an index beside it
        lists (``model-00001-of-00003.safetensors``) opens the whole set.

    Attributes
    ----------
    notes : tuple of str
        What was left aside, such as ``.safetensors`` files that the index does not name.
    config_file : bytes or None
        ``config.json`` as it is.
    checkpoint : Checkpoint
        Which files it is made of, and what their index says.
    headers : mapping of str to SafetensorsHeader
        By file name.

    Raises
    ------
    SourceError
        If a file cannot be read or its header is not sound; see ``wvindex.errors``.
    UnsupportedError
        If a tensor has a dtype that wvindex does not represent.
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
        checkpoint = locate(self._path)
        self._directory = checkpoint.directory
        self._beside = absolute(checkpoint.directory)  # for what is read later
        headers: dict[str, SafetensorsHeader] = {}
        fingerprints: list[FileFingerprint] = []
        for name, real in checkpoint.files.items():
            file = checkpoint.directory / name
            status = self._files.add(file, real)
            header = read_header(self._files, file, status.st_size)
            headers[name] = header
            fingerprints.append(
                FileFingerprint(name, status.st_size, status.st_mtime_ns, header.sha256, header.nbytes)
            )
        check_shards(
            {name: header.tensors for name, header in headers.items()},
            checkpoint.weight_map,
            checkpoint.directory,
        )
        self._tensors = tuple(tensor for header in headers.values() for tensor in header.tensors)
        self.checkpoint = checkpoint
        self.headers: Mapping[str, SafetensorsHeader] = headers
        self._fingerprints = tuple(fingerprints)
        self.config_file = read_beside(self._directory, CONFIG_JSON, MAX_JSON_BYTES)
        self._config = self._parsed_config()
        self.notes: tuple[str, ...] = checkpoint.notes

    def _parsed_config(self) -> dict[str, Any]:
        if self.config_file is None:
            return {}
        return parse_object(self.config_file, file=self._directory / CONFIG_JSON, constants=True)

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
        """The file or directory that was opened."""
        return self._path

    @property
    def format(self) -> Literal["safetensors"]:
        """Which reader this is."""
        return "safetensors"

    def config(self) -> Mapping[str, Any]:
        """Give the object in ``config.json``; empty if there is none. It was read at opening."""
        return self._config

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor, file by file, by offset."""
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
        """Read the tokenizer files in the directory; None if none of them holds a vocabulary.

        Raises
        ------
        LimitExceeded
            If a file is longer than `MAX_JSON_BYTES`.
        UnsafePath
            If a file is a symlink that leads out of the checkpoint.
        """
        contents = ((name, read_beside(self._beside, name, MAX_JSON_BYTES)) for name in TOKENIZER_FILES)
        files = {name: data for name, data in contents if data is not None}
        return TokenizerData(files=files, gguf={}) if files.keys() & VOCABULARY_FILES else None

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """One fingerprint a file, in shard order, taken when the source was opened."""
        return self._fingerprints

    def close(self) -> None:
        """Close every file; not while reads are under way."""
        self._files.close()
