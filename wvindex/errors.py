"""One exception tree: every failure that wvindex foresees, each with a stable ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class WvindexError(Exception):
    """Base of every error that wvindex raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence.
    file, tensor, field : optional
        Where: the file, the tensor in it, the header field or metadata key.
    offset : int, optional
        Byte offset in `file`.
    expected, found : optional
        What should stand there and what does.

    Attributes
    ----------
    kind : str
        Stable, machine-readable name of the fault.
    exit_code : int
        What the command line exits with.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        tensor: str | None = None,
        field: str | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = str(file) if file is not None else None
        self.tensor = tensor
        self.field = field
        self.offset = offset
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        """Give the message, then each fact that is known, in a fixed order."""
        names = ("file", "tensor", "field", "offset", "expected", "found")
        facts = [f"{name}: {_shown(value)}" for name in names if (value := getattr(self, name)) is not None]
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


def _shown(value: object, limit: int = 200) -> str:
    """Render a value that may come from a hostile file: printable, on one line, bounded."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class SourceError(WvindexError):
    """A checkpoint cannot be read."""

    kind = "source"


class UnreadableSource(SourceError):
    """A path is missing, is not a regular file, or the system refuses it."""

    kind = "unreadable"


class UnknownFormat(SourceError):
    """A path holds neither GGUF, nor safetensors, nor a store."""

    kind = "unknown-format"


class MalformedHeader(SourceError):
    """A header does not follow its format."""

    kind = "malformed-header"


class TruncatedSource(SourceError):
    """A file ends before what its header promises."""

    kind = "truncated"


class TensorLayoutError(SourceError):
    """A tensor's shape, encoding, offset or span is impossible."""

    kind = "tensor-layout"


class DuplicateName(SourceError):
    """A key or tensor name stands twice."""

    kind = "duplicate-name"


class ShardError(SourceError):
    """Shards are missing, extra, doubled, or disagree with each other or their index."""

    kind = "shards"


class UnsafePath(SourceError):
    """A path named by a file leads out of the checkpoint's directory."""

    kind = "unsafe-path"


class LimitExceeded(SourceError):
    """A size in an untrusted file is over the cap in ``wvindex.limits``."""

    kind = "limit"


class MetadataError(SourceError):
    """Model configuration is missing a field or contradicts itself or the tensors."""

    kind = "metadata"


class SourceChanged(SourceError):
    """A source is no longer the file that was fingerprinted."""

    kind = "source-changed"


class UnsupportedError(WvindexError):
    """The input is valid, but wvindex cannot represent or run it."""

    kind = "unsupported"
    exit_code = 4


class NonFiniteWeights(UnsupportedError):
    """Weights are NaN or infinite, and only finite ones were asked for."""

    kind = "non-finite"


class UndecodableType(UnsupportedError):
    """A tensor's encoding is known by name, but no decoder for it exists."""

    kind = "undecodable-type"


class SpectrumNotFound(UnsupportedError):
    """A matrix whose singular values are not found within memory."""

    kind = "spectrum-not-found"


class UnsupportedModel(UnsupportedError):
    """The forward pass does not know this model, or the store lacks what it needs."""

    kind = "unsupported-model"


class UnsupportedTokenizer(UnsupportedError):
    """The store's tokenizer is missing or of a kind that is not known."""

    kind = "unsupported-tokenizer"


class ReadOnlyArray(UnsupportedError):
    """Encoded arrays cannot be written through their logical values."""

    kind = "read-only"


class StoreError(WvindexError):
    """A store cannot be written or read."""

    kind = "store"


class NotAStore(StoreError):
    """A directory is not a finished wvindex store."""

    kind = "not-a-store"


class StoreVersionError(StoreError):
    """A store has a format version that this wvindex does not read."""

    kind = "store-version"


class CatalogError(StoreError):
    """A store's catalog is malformed or contradicts its arrays."""

    kind = "catalog"


class ChunkError(StoreError):
    """A chunk is missing or has the wrong length."""

    kind = "chunk"


class ChecksumError(ChunkError):
    """A chunk's bytes are not the bytes that were written."""

    kind = "checksum"


class StoreReplaced(StoreError):
    """A store is no longer the one that was opened: another was built, or nothing stands in its place."""

    kind = "store-replaced"


class StoreClosed(StoreError):
    """A store, or the checkpoint behind it, was closed."""

    kind = "closed"


class BuildLocked(StoreError):
    """Another process is building this store."""

    kind = "build-locked"


class NoSpace(StoreError):
    """The disk has too little room."""

    kind = "no-space"


class TargetExists(StoreError):
    """The output path is taken."""

    kind = "target-exists"


class UsageError(WvindexError):
    """A call asks for something that cannot be."""

    kind = "usage"
    exit_code = 2


class KeyNotFound(UsageError, KeyError):
    """No tensor answers to a name."""

    kind = "key-not-found"

    __str__ = WvindexError.__str__


class AmbiguousKey(KeyNotFound):
    """Several tensors answer to a name."""

    kind = "ambiguous-key"


class SelectionError(UsageError, IndexError):
    """An index, slice, head, expert or layer range does not fit the tensor."""

    kind = "selection"
