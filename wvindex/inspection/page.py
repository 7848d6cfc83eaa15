"""What the pages of a layer and of a model share: where they are from, their tables, their plain forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from wvindex.formats.ggml import can_decode
from wvindex.inspection.table import Table, to_json
from wvindex.inspection.tensor_stats import TENSOR, Row, place
from wvindex.query.lazy import Tensor
from wvindex.sizes import bits_per_weight

ORIGIN: Final = ("exactness", "sources", "transforms")

TENSORS: Final = (*TENSOR[:5], *ORIGIN, *TENSOR[5:])
"""Columns of a page's tensors: those of `wvindex.stats`, and where each tensor is from."""


def plain(value: Any) -> Any:
    """Give a page, or a part of one, as dictionaries, lists and numbers; a table is its rows."""
    if isinstance(value, Table):
        return value.to_dicts()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def json_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give plain values as JSON has them: floats that it lacks are strings."""
    return {name: _json(value) for name, value in document.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_of(value)
    return [_json(one) for one in value] if isinstance(value, list) else to_json(value)


def decodable(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Part tensors into those whose values can be looked at, and the others."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for tensor in tensors:
        encoding = tensor.spec.encoding
        parts[not (encoding.dtype is not None or can_decode(encoding))].append(tensor)
    return parts


def tensors_table(tensors: Sequence[Tensor], rows: Iterable[Row]) -> Table:
    """Give the table of a page's tensors; `rows` are statistics of some of them, maybe of none."""
    known = {row["key"]: row for row in rows}
    return Table.of_dicts("tensors", TENSORS, [_stored(t) | known.get(t.key, {}) for t in tensors])


def _stored(tensor: Tensor) -> Row:
    return place(tensor) | {
        "shape": "x".join(map(str, tensor.shape)) or "scalar",
        "encoding": tensor.encoding,
        "exactness": tensor.exactness,
        "sources": list(tensor.source),
        "transforms": list(tensor.transforms),
        "nbytes": tensor.nbytes,
        "bits_per_weight": bits_per_weight(tensor.nbytes, tensor.size),
        "count": tensor.size,
    }
