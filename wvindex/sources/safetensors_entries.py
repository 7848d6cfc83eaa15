"""The tensors of a safetensors header where every entry is sound: all at once, for there may be 100,000.

Of all entries together is asked what `wvindex.sources.safetensors_header` asks of each. Where anything may
not be as it should be, it is that one that looks closer and says what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from operator import itemgetter, sub
from pathlib import Path
from typing import Any, Final

from wvindex.formats.encodings import ENCODINGS
from wvindex.limits import MAX_DIMS, MAX_ELEMENTS, MAX_NAME_BYTES
from wvindex.sources.base import TensorInfo

Shape = tuple[int, ...]

ENTRY_FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})

DTYPES: Final = {name: encoding for name, encoding in ENCODINGS.items() if encoding.is_plain}
"""What wvindex represents, by safetensors' name."""

SURELY_SHORT: Final = MAX_NAME_BYTES // 4
"""Characters that are no more than `MAX_NAME_BYTES`, whatever they are: UTF-8 has at most four bytes each."""

_fields_of = itemgetter("dtype", "shape", "data_offsets")
_tensor: Final[Callable[[Iterable[Any]], TensorInfo]] = partial(tuple.__new__, TensorInfo)
"""``TensorInfo._make``, without a call of a Python function for each."""


def sound_tensors(entries: Mapping[str, object], file: Path, data_start: int) -> list[TensorInfo] | None:
    """Give the tensors of a header, in its order; None where an entry may not be sound.

    Parameters
    ----------
    entries : mapping
        What the parsed header has by name, without ``__metadata__``.
    file : Path
    data_start : int
        Offset of the data in the file.
    """
    if "" in entries or max(map(len, entries), default=0) > SURELY_SHORT:
        return None
    columns = _columns(entries.values())
    if columns is None:
        return None
    dtypes, shapes, spans = columns
    forms = list(zip(dtypes, map(tuple, shapes), strict=True))
    nbytes_of = {form: _nbytes(*form) for form in set(forms)}
    nbytes = list(map(nbytes_of.__getitem__, forms))
    begins = list(map(itemgetter(0), spans))
    if list(map(sub, map(itemgetter(1), spans), begins)) != nbytes:
        return None
    encodings = map(DTYPES.__getitem__, dtypes)
    offsets = map(data_start.__add__, begins)
    nothing = repeat(None)  # neither rendered nor aside
    values = zip(
        entries, map(itemgetter(1), forms), encodings, repeat(file), offsets, nbytes, nothing, nothing
    )
    return list(map(_tensor, values))


def _columns(
    entries: Iterable[Any],
) -> tuple[Sequence[str], Sequence[list[int]], Sequence[list[int]]] | None:
    """Give dtypes, shapes and offsets; None where a field is missing, more, or not of its kind."""
    if not _are_of(entries, {dict}) or set(map(len, entries)) - {len(ENTRY_FIELDS)}:
        return None
    try:
        rows = list(map(_fields_of, entries))
    except KeyError:
        return None
    dtypes, shapes, spans = ([row[column] for row in rows] for column in range(3))
    if not _are_of(dtypes, {str}) or not DTYPES.keys() >= set(dtypes):
        return None
    if not _are_sizes(shapes) or not _are_sizes(spans) or set(map(len, spans)) - {2}:
        return None
    return dtypes, shapes, spans


def _are_of(values: Iterable[object], kinds: set[type]) -> bool:
    """Whether each value is of one of some types: not of a subclass, as JSON's ``true`` is of int."""
    return set(map(type, values)) <= kinds


def _are_sizes(lists: Sequence[list[int]]) -> bool:
    """Whether each is a list of integers that are not negative."""
    if not _are_of(lists, {list}) or not _are_of(chain.from_iterable(lists), {int}):
        return False
    return min(chain.from_iterable(lists), default=0) >= 0


def _nbytes(dtype: str, shape: Shape) -> int | None:
    count = n_elements(shape)
    return None if count is None else count * DTYPES[dtype].type_size


@lru_cache(maxsize=256)
def n_elements(shape: Shape) -> int | None:
    """Give how many elements a shape has; None where it has too many, or too many dimensions."""
    if len(shape) > MAX_DIMS:
        return None
    # Zeros left out: (0, 2**63) has no elements, but no array library can shape it.
    return math.prod(shape) if math.prod(filter(None, shape)) <= MAX_ELEMENTS else None
