"""A result as a checkpoint that is not written yet, so that its description can be read before it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
        if one.name in (*_NOT_COMPARED, *besides):
            continue
        different = _difference(one.name, getattr(config, one.name), getattr(found, one.name))
        if different is not None:
            field_, before, after = different
            raise UnsupportedError(
                f"{described.format} cannot say this of the model",
                file=described.path,
                field=field_,
                expected=before,
                found=after,
            )


def _difference(name: str, one: Any, other: Any) -> tuple[str, Any, Any] | None:
    """Give the first member of a field that differs, by its own name, and both values."""
    members = _members(name, one, other)
    if members is None:
        return None if _same(one, other) else (name, one, other)
    differences = (_difference(*member) for member in members)
    return next((found for found in differences if found is not None), None)


def _members(name: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]] | None:
    """Give what two values have in common by name; None where they are compared as they are."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return ((f"{name}.{key}", one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return ((f"{name}[{place}]", first, second) for place, (first, second) in pairs)
    if hasattr(one, "__dataclass_fields__") and type(one) is type(other):
        names = [f.name for f in fields(one) if not (isinstance(one, Rope) and f.name == "rope_type")]
        return ((f"{name}.{field_}", getattr(one, field_), getattr(other, field_)) for field_ in names)
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_TOLERANCE)
    return bool(one == other)
