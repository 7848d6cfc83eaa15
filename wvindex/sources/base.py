"""What a checkpoint looks like to the rest of wvindex: named byte ranges and raw metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from wvindex.formats.encodings import Encoding


@dataclass(frozen=True)
class Rendering:
    """How a source whose tensors have a form of their own shows one of them in Hugging Face's.

    Attributes
    ----------
    name : str
        What Hugging Face calls it.
    transforms : tuple of str
        What is done to the stored values, in order; empty where they are shown as they are.
    is_exact : bool
        Whether every value is a stored one, only moved.
    stack : str
        What is read together with it: tensors of one stack are best read one after another.
    held_bytes : int
        Memory that any read of it takes: a chunk is decoded whole.
    """

    name: str
    transforms: tuple[str, ...]
    is_exact: bool
    stack: str
    held_bytes: int


class TensorInfo(NamedTuple):
    """One tensor of a checkpoint, as its header declares it (and as validation found true).

    A tuple, for a checkpoint may have a hundred thousand of them.

    Attributes
    ----------
    name : str
        The source's own name.
    shape : tuple of int
        Outermost first (row-major); GGUF's reversed order is already turned round.
    encoding : Encoding
        Plain or packed; never with a `scale_block` (scales are tensors of their own).
    file : Path
    offset : int
        Of the first byte, from the start of `file`; of no meaning where there is a `rendering`.
    nbytes : int
    rendering : Rendering or None
        Where the source's bytes are not the tensor's.
    aside : str or None
        Why it is none of the model's weights: ``optimizer``, ``training state``. It then goes nowhere.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    file: Path
    offset: int
    nbytes: int
    rendering: Rendering | None = None
    aside: str | None = None

    @property
    def hub_name(self) -> str:
        """Its name in Hugging Face's form, where the source has one of its own."""
        return self.rendering.name if self.rendering is not None else self.name


@dataclass(frozen=True)
class FileFingerprint:
    """What identifies one source file without reading its data.

    Attributes
    ----------
    name : str
        Relative to the checkpoint's directory, with forward slashes.
    size : int
    mtime_ns : int
    header_sha256 : str
        Of the header's bytes (GGUF: everything before the data; safetensors: length and JSON).
    header_nbytes : int
        How many those are: the file's first. 0 where nobody wrote it down.
    """

    name: str
    size: int
    mtime_ns: int
    header_sha256: str
    header_nbytes: int = 0


@dataclass(frozen=True)
class TokenizerData:
    """A checkpoint's tokenizer as found, undigested.

    Attributes
    ----------
    files : mapping of str to bytes
        Tokenizer files beside safetensors: ``tokenizer.json``, ``tokenizer_config.json``, ...
    gguf : mapping of str to object
        GGUF's ``tokenizer.*`` metadata, as plain Python values.
    """

    files: Mapping[str, bytes]
    gguf: Mapping[str, Any]


class Source(Protocol):
    """A checkpoint, open for reading. Its whole header has been validated."""

    @property
    def path(self) -> Path:
        """The file or directory that was opened."""
        ...

    @property
    def place(self) -> Path:
        """The same, absolute: what stands there is found whatever the working directory is later."""
        ...

    @property
    def format(self) -> Literal["gguf", "safetensors", "maxtext"]:
        """Which reader this is."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the files, though valid: trailing bytes, files that no index lists."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        ...

    def config(self) -> Mapping[str, Any]:
        """Raw model configuration: the object in config.json, or GGUF's metadata by key.

        GGUF arrays of numbers are lists; the vocabulary (arrays of ``tokenizer.*``) is left out.
        Empty where a safetensors checkpoint has no config.json.
        """
        ...

    def tensors(self) -> Sequence[TensorInfo]:
        """Every tensor, in file order."""
        ...

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        """Read bytes [start, stop) of a tensor's data into `out` (or a new buffer) and return it.

        Raises
        ------
        TruncatedSource
            If the file has become shorter than its header promised.
        """
        ...

    def tokenizer(self) -> TokenizerData | None:
        """The tokenizer as found, or None."""
        ...

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """One fingerprint a file, in shard order, taken when the source was opened."""
        ...

    def close(self) -> None:
        """Close every file."""
        ...
