"""What a weight database holds, counted: values, bytes, encodings, exactness, and what is odd about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wvindex.arch.keys import split_layer
from wvindex.formats.ggml import can_decode
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.sizes import bits_per_weight


@dataclass(frozen=True, kw_only=True)
class EncodingCount:
    """What is stored in one encoding.

    Attributes
    ----------
    encoding : str
    arrays, parameters, nbytes : int
    """

    encoding: str
    arrays: int
    parameters: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """How many values of an array are NaN, and how many infinite."""

    key: str
    nan: int
    inf: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A weight database in numbers; see `summarize`.

    Attributes
    ----------
    arrays : int
    layers : int
        Layers of the forward pass that have arrays.
    mtp_layers : tuple of int
        Numbers of the multi-token-prediction layers, which are no part of it.
    parameters : int
        Values of all arrays. Scales of FP8 blocks are not counted.
    nbytes : int
        Stored bytes, scales included.
    encodings : tuple of EncodingCount
        Most bytes first.
    exactness : mapping of str to int
        Arrays by how their values relate to the source's.
    unmapped : tuple of str
        Keys that no rule maps: tensors kept under their own names.
    undecodable : tuple of str
        Keys whose encoding nobody decodes.
    nonfinite : tuple of NonFinite or None
        Arrays that hold NaN or infinity, as the build counted them; None for a bare checkpoint, where
        nobody has looked. Nor has anybody at linked arrays.
    linked, linked_nbytes : int
        Arrays of a store that are byte ranges of its source's files, and their bytes.
    """

    arrays: int
    layers: int
    mtp_layers: tuple[int, ...]
    parameters: int
    nbytes: int
    encodings: tuple[EncodingCount, ...]
    exactness: Mapping[str, int]
    unmapped: tuple[str, ...]
    undecodable: tuple[str, ...]
    nonfinite: tuple[NonFinite, ...] | None
    linked: int
    linked_nbytes: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a value; NaN where there are none."""
        return bits_per_weight(self.nbytes, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return asdict(self) | {"bits_per_weight": self.bits_per_weight}


def summarize(db: Store) -> Summary:
    """Count what a store (or a bare checkpoint) holds. Nothing but its headers or catalog is read.

    Parameters
    ----------
    db : Store

    Returns
    -------
    Summary
    """
    tensors = list(db.values())
    mtp = {split_layer(tensor.key)[0] for tensor in tensors if tensor.mtp}
    entries = db.catalog.arrays if db.catalog is not None else {}
    linked = [entry.spec.nbytes for entry in entries.values() if entry.link is not None]
    return Summary(
        arrays=len(tensors),
        layers=len(db.layers),
        mtp_layers=tuple(sorted(layer for layer in mtp if layer is not None)),
        parameters=sum(tensor.size for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        encodings=_encodings(tensors),
        exactness=dict(sorted(Counter(tensor.exactness for tensor in tensors).items())),
        unmapped=tuple(tensor.key for tensor in tensors if not tensor.spec.mapped),
        undecodable=tuple(tensor.key for tensor in tensors if not _is_decodable(tensor)),
        nonfinite=_nonfinite(db),
        linked=len(linked),
        linked_nbytes=sum(linked),
    )


def _encodings(tensors: list[Tensor]) -> tuple[EncodingCount, ...]:
    groups: defaultdict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.encoding].append(tensor)
    counts = [
        EncodingCount(
            encoding=encoding,
            arrays=len(group),
            parameters=sum(tensor.size for tensor in group),
            nbytes=sum(tensor.nbytes for tensor in group),
        )
        for encoding, group in groups.items()
    ]
    return tuple(sorted(counts, key=lambda count: (-count.nbytes, count.encoding)))


def _is_decodable(tensor: Tensor) -> bool:
    encoding = tensor.spec.encoding
    return encoding.dtype is not None or can_decode(encoding)


def _nonfinite(db: Store) -> tuple[NonFinite, ...] | None:
    if db.catalog is None:
        return None
    entries = db.catalog.arrays
    counts = (NonFinite(key=key, nan=entries[key].nan or 0, inf=entries[key].inf or 0) for key in db)
    return tuple(count for count in counts if count.nan or count.inf)
