"""Texts of documents that the way back would not write: kept beside them, so that both ways undo each other.

Names leave a list when another entry means them, halves leave the places where they stood, a document may be
compact, or in an order of its own. Where taking the result apart (or fusing it again) would not give a
document back byte for byte, its text is kept in a file of the result, with the checksum of what stands in its
place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.converting.documents import encoded
from wvindex.converting.plan import Direction, Edit
from wvindex.errors import MetadataError, UnsupportedError
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.files import read_beside
from wvindex.sources.strict_json import parse_object

NAME: Final = "mla_lora_documents.json"
"""The file; it is there only where a text must be kept."""

_DOCUMENTS: Final = "documents"
_DIRECTION: Final = "direction"

Rewrite = Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[Edit]]]


@dataclass(frozen=True)
class Document:
    """A JSON document of a checkpoint, and how it changes.

    Attributes
    ----------
    name : str
        Its file's.
    text : bytes
    there, back : callable
        Rewrites it as the conversion does, and as the reverse will.
    tells_the_same : callable or None
        Whether a kept text and what would be written say the same where they must; None where only names of
        modules stand in it.
    """

    name: str
    text: bytes
    there: Rewrite
    back: Rewrite
    tells_the_same: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None


def rewritten(
    documents: Sequence[Document], directory: Path, direction: Direction, *, keep: bool
) -> tuple[dict[str, bytes], list[Edit]]:
    """Give the documents that change, and the file with the texts that the way back needs.

    Parameters
    ----------
    documents : sequence of Document
    directory : Path
        Of the source, whose own kept texts are used.
    direction : {"fuse", "unfuse"}
    keep : bool
        Whether the way back gives the same tensors, so that texts are of use to it.

    Raises
    ------
    MetadataError
        If the source's kept texts are malformed.
    """
    kept = _kept(directory, direction)
    made: dict[str, bytes] = {}
    edits: list[Edit] = []
    needed: dict[str, dict[str, str]] = {}
    for one in documents:
        found = parse_object(one.text, file=directory / one.name)
        new, changes = one.there(found)
        text = _restored(one, new, kept, directory)
        if text is not None:
            changes = [Edit(file=one.name, what="is again what it was before it was converted")]
        elif changes:
            text = encoded(new)
        if text is None:
            continue
        made[one.name] = text
        edits += changes
        if keep and _undone(one, text, directory) != one.text:
            needed[one.name] = {"sha256": _digest(text), "text": one.text.decode()}
    if needed:
        made[NAME] = encoded({_DIRECTION: direction, _DOCUMENTS: needed})
        edits.append(Edit(file=NAME, what=f"keeps the text of {', '.join(needed)} for the way back"))
    return made, edits


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _kept(directory: Path, direction: Direction) -> Mapping[str, Any]:
    """Read the texts that the reverse conversion kept; none where it kept none."""
    data = read_beside(directory, NAME, MAX_JSON_BYTES)
    if data is None:
        return {}
    document = parse_object(data, file=directory / NAME)
    kept = document.get(_DOCUMENTS)
    if not isinstance(kept, dict) or not all(_is_entry(entry) for entry in kept.values()):
        raise MetadataError(
            "not an object of documents",
            file=directory / NAME,
            field=_DOCUMENTS,
            expected="sha256 and text of each",
            found=type(kept).__name__,
        )
    return {} if document.get(_DIRECTION) == direction else kept


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("sha256", "text"))


def _restored(
    one: Document, new: Mapping[str, Any], kept: Mapping[str, Any], directory: Path
) -> bytes | None:
    """Give the kept text of a document that has not changed since, if it fits the tensors."""
    entry = kept.get(one.name)
    if entry is None or entry["sha256"] != _digest(one.text):
        return None
    text: bytes = entry["text"].encode()
    document = parse_object(text, file=directory / NAME)
    fits = one.tells_the_same is None or one.tells_the_same(document, new)
    return text if fits else None


def _undone(one: Document, text: bytes, directory: Path) -> bytes | None:
    """Give what the way back would write without kept texts; None where it would refuse."""
    try:
        document, changes = one.back(json.loads(text))
    except UnsupportedError:
        return None
    return encoded(document) if changes else text
