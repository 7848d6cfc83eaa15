"""A result as a checkpoint that is not written yet, so that its description can be read before it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from wvindex.arch.config import ModelConfig, Rope
from wvindex.arch.registry import identify
from wvindex.errors import UnsupportedError, WvindexError
from wvindex.exporting.held import Held
from wvindex.exporting.restore import info_of
from wvindex.exporting.rows import Bytes
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.base import FileFingerprint, TensorInfo, TokenizerData

_TOLERANCE: Final = 1e-6
"""How far floats may move: GGUF has them in float32."""

_NOT_COMPARED: Final = ("model_type", "family", "attention_form", "refuses_to_run", "max_position_embeddings")


@dataclass(frozen=True)
class Described:
    """A `Source` whose tensors are those of a result; what is read of them is made when it is asked for.

    Attributes
    ----------
    path : Path
    format : {"gguf", "safetensors", "maxtext"}
    stated : mapping
        ``config.json``, or GGUF's metadata by key.
    infos : sequence of TensorInfo
    readable : mapping of str to OutTensor
        Those that a configuration is read from.
    """

    path: Path
    format: Literal["gguf", "safetensors", "maxtext"]
    stated: Mapping[str, Any]
    infos: Sequence[TensorInfo]
    readable: Mapping[str, OutTensor]
    notes: tuple[str, ...] = field(default=())

    @property
    def place(self) -> Path:
        """The same."""
        return self.path

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def config(self) -> Mapping[str, Any]:
        """Give what is stated."""
        return self.stated

    def tensors(self) -> Sequence[TensorInfo]:
        """Every tensor."""
        return self.infos

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        """Make bytes [start, stop) of a tensor."""
        view = memoryview(bytearray(stop - start)) if out is None else out
        self.readable[info.name].read(start, view)
        return view

    def tokenizer(self) -> TokenizerData | None:
        """Nothing is said of it."""
        return None

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """There are no files yet."""
        return ()

    def close(self) -> None:
        """Nothing is open."""


def described(
    name: str,
    form: Literal["gguf", "safetensors", "maxtext"],
    stated: Mapping[str, Any],
    tensors: Sequence[OutTensor],
) -> Described:
    """Give the description of a result."""
    path = Path(name)
    infos = [
        TensorInfo(one.name, one.shape, replace(one.encoding, scale_block=None), path, 0, one.nbytes)
        for one in tensors
    ]
    return Described(path, form, stated, infos, {tensor.name: tensor for tensor in tensors})


def as_found(held: Held) -> Described:
    """Give the description of the GGUF file that a store was made from."""
    path, kept = Path(held.name), held.gguf()
    readable = {
        name: OutTensor(name, one.shape, Bytes(one.data, one.encoding, one.shape[-1]))
        for name, one in (kept.tensors if kept is not None else {}).items()
    }
    nbytes = {name: tensor.nbytes for name, tensor in readable.items()}
    infos = [info_of(line, nbytes.get(line.tensor, 0)) for line in held.ledger]
    return Described(path, "gguf", held.source_config, infos, readable)


def require_same_model(described: Described, config: ModelConfig, *, besides: Sequence[str] = ()) -> None:
    """Read a description as a build would, and refuse it where it means another model.

    Parameters
    ----------
    described : Described
    config : ModelConfig
        That it shall say.
    besides : sequence of str
        Fields that it may leave out.

    Raises
    ------
    UnsupportedError
        Naming the field that the format cannot say.
    """
    try:
        _, found = identify(described)
    except WvindexError as error:
        raise UnsupportedError(
            f"the {described.format} form of this model's configuration cannot be read back: {error}",
            file=described.path,
            field=error.field,
        ) from error
    for one in fields(ModelConfig):
        before, after = getattr(config, one.name), getattr(found, one.name)
        if one.name not in (*_NOT_COMPARED, *besides) and not _same(before, after):
            raise UnsupportedError(
                f"{described.format} cannot say this of the model",
                file=described.path,
                field=one.name,
                expected=before,
                found=after,
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Rope) and isinstance(other, Rope):
        return all(
            _same(getattr(one, f.name), getattr(other, f.name)) for f in fields(Rope) if f.name != "rope_type"
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "__dataclass_fields__") and type(one) is type(other):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_TOLERANCE)
    return bool(one == other)
