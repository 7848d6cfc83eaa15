"""Where the query's share of a fused down-projection ends: what is stated, held against the norms behind it.

The norm between the query's two factors has ``q_lora_rank`` values, that of keys and values ``kv_lora_rank``.
A wrong cut keeps every sum and every byte; only these tell it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from wvindex.errors import MetadataError

_FIELDS: Final = ("q_lora_rank", "kv_lora_rank")


class Norm(NamedTuple):
    """The norm behind one half.

    Attributes
    ----------
    name : str
        The tensor's.
    width : int
        Its values.
    """

    name: str
    width: int


Norms = tuple[Norm | None, Norm | None]
"""Of the query, and of keys and values; None where there is none."""


def require_stated(down: str, norms: Norms, stated: tuple[int, int, int], file: Path) -> None:
    """Refuse ranks that are not the widths of the norms.

    Parameters
    ----------
    down : str
        Names of the down-projections, for messages.
    norms : (Norm or None, Norm or None)
    stated : (int, int, int)
        q_lora_rank, kv_lora_rank and qk_rope_head_dim, as the configuration has them.
    file : Path

    Raises
    ------
    MetadataError
        Naming the down-projection and the norm.
    """
    for field, norm, rank in zip(_FIELDS, norms, stated, strict=False):
        if norm is not None and norm.width != rank:
            raise MetadataError(
                "a down-projection and the norm behind it do not have the same rank",
                file=file,
                tensor=f"{down} and {norm.name}",
                field=field,
                expected=f"{norm.width}, as the norm has",
                found=rank,
            )


def query_width(down: str, total: int, norms: Norms, file: Path) -> int:
    """Give where the query's share of `total` ends, by the norms alone.

    Raises
    ------
    MetadataError
        If there is no norm of the query, or what it leaves has no room for keys, values and rotary keys.
    """
    query, below = norms
    least = below.width if below is not None else 0
    if query is None or not 0 < query.width < total - least:
        room = f" and leaves more than the {least} of {below.name}" if below is not None else ""
        raise MetadataError(
            "where the query's columns end is not known",
            file=file,
            tensor=down if query is None else f"{down} and {query.name}",
            expected=f"a norm of the query that has fewer values than {total}{room}",
            found="nothing" if query is None else query.width,
        )
    return query.width
