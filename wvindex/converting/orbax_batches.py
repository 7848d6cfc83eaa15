"""What is written of an Orbax checkpoint before it is journaled: in OCDBT, small databases one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wvindex.converting.orbax_leaves import NewLeaf
from wvindex.sources.orbax_metadata import OCDBT_MANIFEST

_BATCH_BYTES: Final = 1 << 30
"""Values that one database has, about: what an interrupted conversion does again."""

_DATABASE: Final = "ocdbt.process_"


@dataclass(frozen=True)
class Batch:
    """A new leaf, or values that are copied.

    Attributes
    ----------
    directory : str
        Below the result: of a database, or of a leaf.
    made : NewLeaf or None
    keys : tuple of bytes
    nbytes : int
    """

    directory: str
    made: NewLeaf | None
    keys: tuple[bytes, ...]
    nbytes: int


def databases(inside: str, copied: Iterable[tuple[bytes, int]], made: Sequence[NewLeaf]) -> Iterator[Batch]:
    """Divide values among databases of about `_BATCH_BYTES`, and give every new leaf one of its own.

    Parameters
    ----------
    inside : str
        What stands before their names.
    copied : iterable of (bytes, int)
        Keys, and about the bytes of each value.
    made : sequence of NewLeaf
    """
    number = 0
    keys: list[bytes] = []
    total = 0
    for key, nbytes in copied:
        keys.append(key)
        total += nbytes
        if total >= _BATCH_BYTES:
            yield Batch(f"{inside}{_DATABASE}{number}", None, tuple(keys), total)
            number, keys, total = number + 1, [], 0
    if keys:
        yield Batch(f"{inside}{_DATABASE}{number}", None, tuple(keys), total)
        number += 1
    for place, one in enumerate(made, number):
        yield Batch(f"{inside}{_DATABASE}{place}", one, (), one.nbytes)


def is_of_database(name: str) -> bool:
    """Whether a file of a checkpoint is part of its database."""
    first = name.partition("/")[0]
    return first in ("d", OCDBT_MANIFEST) or first.startswith(_DATABASE)
