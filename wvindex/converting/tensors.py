"""Tensors of a result, and the bytes of the source that they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from wvindex.converting.staged import Content
from wvindex.sources.base import Source, TensorInfo


@dataclass(frozen=True)
class OutTensor:
    """A tensor of the result.

    Attributes
    ----------
    name : str
    dtype : str
        As safetensors spells it.
    shape : tuple of int
    content : Content
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content


@dataclass(frozen=True)
class TensorBytes:
    """Bytes [start, stop) of a tensor of the source."""

    source: Source
    info: TensorInfo
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """How many."""
        return self.stop - self.start

    def read(self, start: int, out: memoryview) -> None:
        """Read them from the file."""
        first = self.start + start
        self.source.read(self.info, first, first + len(out), out)


@dataclass(frozen=True)
class Together:
    """Contents one after another."""

    parts: tuple[Content, ...]

    @property
    def nbytes(self) -> int:
        """Of all."""
        return sum(part.nbytes for part in self.parts)

    def read(self, start: int, out: memoryview) -> None:
        """Read from each part that holds some."""
        done = 0
        for part in self.parts:
            count = max(0, min(part.nbytes - start, len(out) - done))
            if count:
                part.read(start, out[done : done + count])
            done, start = done + count, max(0, start - part.nbytes)
