"""A checkpoint in memory that counts what is read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.encodings import ENCODINGS
from wvindex.sources.base import FileFingerprint, TensorInfo, TokenizerData

Array = NDArray[Any]
Packed = tuple[str, tuple[int, ...], Array]
"""An encoding's name, the logical shape, and the blocks' bytes."""


class MemorySource:
    """Tensors by name: arrays of a plain dtype, or packed blocks.

    Parameters
    ----------
    tensors : mapping of str to array or Packed
    config : mapping
    format : {"safetensors", "gguf"}
    """

    def __init__(
        self,
        tensors: Mapping[str, Array | Packed],
        config: Mapping[str, Any] | None = None,
        format: Literal["safetensors", "gguf"] = "safetensors",
    ) -> None:
        self.path = self.place = Path("memory")
        self.format = format
        self.bytes_read = 0
        self._config = dict(config or {})
        self._data: dict[str, bytes] = {}
        self._infos: list[TensorInfo] = []
        for name, tensor in tensors.items():
            self._add(name, tensor)

    def _add(self, name: str, tensor: Array | Packed) -> None:
        encoding, shape, values = (
            tensor if isinstance(tensor, tuple) else (plain_name(tensor), tensor.shape, tensor)
        )
        data = np.ascontiguousarray(values).tobytes()
        info = TensorInfo(name, shape, ENCODINGS[encoding], Path("memory.file"), 0, len(data))
        self._infos.append(info)
        self._data[name] = data

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def config(self) -> Mapping[str, Any]:
        return self._config

    def tensors(self) -> Sequence[TensorInfo]:
        return self._infos

    def info(self, name: str) -> TensorInfo:
        return next(info for info in self._infos if info.name == name)

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        data = self._data[info.name]
        assert 0 <= start <= stop <= len(data), (info, start, stop)
        self.bytes_read += stop - start
        if out is None:
            return memoryview(bytearray(data[start:stop]))
        assert out.nbytes == stop - start
        out[:] = data[start:stop]
        return out

    def tokenizer(self) -> TokenizerData | None:
        return None

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        return ()

    def close(self) -> None:
        pass


def plain_name(array: Array) -> str:
    """Give the name of the plain encoding of an array's dtype."""
    return next(e.name for e in ENCODINGS.values() if e.dtype == array.dtype)
