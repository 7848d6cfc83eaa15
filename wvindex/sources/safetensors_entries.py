"""The tensors of a safetensors header where every entry is sound: all at once, for there may be 100,000.

Of all entries together is asked what `wvindex.sources.safetensors_header` asks of each. Where anything may
not be as it should be, it is that one that looks closer and says what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from itertools import chain, repeat
from operator import itemgetter, sub
from pathlib import Path
from typing import Any, Final

from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.limits import MAX_DIMS, MAX_ELEMENTS, MAX_NAME_BYTES
from wvindex.sources.base import TensorInfo

Form = tuple[tuple[int, ...], Encoding | None, int | None]
"""Shape, encoding, bytes."""

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
    forms, begins, ends = columns
    nbytes = [form[2] for form in forms]
    if list(map(sub, ends, begins)) != nbytes:
        return None
    shapes, encodings = map(itemgetter(0), forms), map(itemgetter(1), forms)
    offsets, nothing = map(data_start.__add__, begins), repeat(None)  # neither rendered nor aside
    values = zip(entries, shapes, encodings, repeat(file), offsets, nbytes, nothing, nothing, strict=False)
    return list(map(_tensor, values))


def _columns(entries: Iterable[Any]) -> tuple[list[Form], list[int], list[int]] | None:
    """Give what the entries say; None where a field is missing, more, or not of its kind."""
    if not _are_of(entries, dict) or set(map(len, entries)) - {len(ENTRY_FIELDS)}:
        return None
    try:
        rows = list(map(_fields_of, entries))
    except KeyError:
        return None
    dtypes, shapes, spans = ([row[column] for row in rows] for column in range(3))
    if not (_are_of(dtypes, str) and _are_of(shapes, list) and _are_of(spans, list)):
        return None
    if not _are_of(chain.from_iterable(shapes), int) or set(map(len, spans)) - {2}:
        return None
    begins, ends = [span[0] for span in spans], [span[1] for span in spans]
    if not (_are_of(begins, int) and _are_of(ends, int)) or min(begins, default=0) < 0:
        return None
    return list(map(_form, dtypes, map(tuple, shapes))), begins, ends


def _are_of(values: Iterable[object], kind: type) -> bool:
    """Whether each value is of a type, and not of one below it, as JSON's ``true`` is of int."""
    return set(map(type, values)) <= {kind}


@lru_cache(maxsize=256)
def _form(dtype: str, shape: tuple[int, ...]) -> Form:
    """Give what all tensors of a dtype and a shape share; no number of bytes where one of them cannot be."""
    encoding = DTYPES.get(dtype)
    count = n_elements(shape) if min(shape, default=0) >= 0 else None
    return shape, encoding, None if count is None or encoding is None else count * encoding.type_size


@lru_cache(maxsize=256)
def n_elements(shape: tuple[int, ...]) -> int | None:
    """Give how many elements a shape has; None where it has too many, or too many dimensions."""
    if len(shape) > MAX_DIMS:
        return None
    # Zeros left out: (0, 2**63) has no elements, but no array library can shape it.
    return math.prod(shape) if math.prod(filter(None, shape)) <= MAX_ELEMENTS else None
