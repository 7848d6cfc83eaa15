"""The ``zarr.json`` documents of a store: Zarr v3 metadata, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from wvindex.errors import CatalogError, SourceError
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import Encoding
from wvindex.sources.strict_json import parse_object
from wvindex.store.layout import CHUNK_SEPARATOR, ChunkGrid

FORMAT: Final = 1
"""Version of the store's format that is written, and the newest that is read."""

ZARR_JSON: Final = "zarr.json"
CATALOG_JSON: Final = "catalog.json"


def dumps(document: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    """Give `document` as JSON in ASCII, members in their order; NaN is refused with ValueError."""
    return (json.dumps(document, indent=indent, allow_nan=False) + "\n").encode("ascii")


GGML_CODEC: Final = "wvindex.ggml"
FP8_CODEC: Final = "wvindex.fp8_block"

_AGREED: Final = (
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "codecs",
    "attributes.wvindex",
)
"""Members of an array's document that the catalog settles. Others are Zarr's, or a user's own attributes."""


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the document of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def array_metadata(spec: ArraySpec, grid: ChunkGrid) -> dict[str, Any]:
    """Give the document of an array.

    Plain arrays are Zarr's own: any reader opens them. Packed and scaled ones have the logical data type
    float32 and a codec of `wvindex.store.codec`, which is told how many rows a short last chunk holds.
    """
    dtype = spec.encoding.logical_dtype
    edge_rows = grid.edge_rows if grid.edge_rows != grid.rows else None
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid.shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": CHUNK_SEPARATOR}},
        "fill_value": _fill_value(spec),
        "codecs": codec_metadata(spec.encoding, edge_rows),
        "attributes": {"wvindex": _attributes(spec)},
    }


def codec_metadata(encoding: Encoding, edge_rows: int | None) -> list[dict[str, Any]]:
    """Give the ``codecs`` of a ``zarr.json`` for an array of any encoding.

    Parameters
    ----------
    encoding : Encoding
    edge_rows : int or None
        Rows of the last chunk, where it may be short. Without effect on plain encodings, whose chunks
        are Zarr's own and always whole.
    """
    if encoding.is_plain:
        endian = {"configuration": {"endian": "little"}} if encoding.type_size > 1 else {}
        return [{"name": "bytes", **endian}]
    block = {} if encoding.scale_block is None else {"scale_block": list(encoding.scale_block)}
    edge = {} if edge_rows is None else {"edge_rows": edge_rows}
    name = FP8_CODEC if block else GGML_CODEC
    return [{"name": name, "configuration": {"type": encoding.name, **block, **edge}}]


def require_agreement(document: bytes | None, spec: ArraySpec, grid: ChunkGrid, *, file: str | Path) -> None:
    """Hold an array's ``zarr.json`` against what the catalog says of the array.

    Parameters
    ----------
    document : bytes or None
        None where it is missing.
    spec : ArraySpec
    grid : ChunkGrid
    file : path
        Of the document, for messages.

    Raises
    ------
    CatalogError
        Naming the first member that differs.
    """
    expected = dumps(array_metadata(spec, grid))
    if document == expected:
        return
    if document is None:
        raise _disagreement(spec, file, None, ZARR_JSON, "nothing")
    try:
        found = parse_object(document, file=Path(file))
    except SourceError as error:
        raise _disagreement(spec, file, None, "an array's metadata", error.message) from error
    catalog = json.loads(expected)
    for name in _AGREED:
        wanted, given = _member(catalog, name), _member(found, name)
        if json.dumps(wanted, sort_keys=True) != json.dumps(given, sort_keys=True):  # 1 is not 1.0, nor true
            raise _disagreement(spec, file, name, wanted, "nothing" if given is None else given)


def _member(document: Any, name: str) -> Any:
    for step in name.split("."):
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _disagreement(
    spec: ArraySpec, file: str | Path, field: str | None, expected: object, found: object
) -> CatalogError:
    return CatalogError(
        "an array is not what the catalog says of it",
        file=file,
        tensor=spec.key,
        field=field,
        expected=expected,
        found=found,
    )


def _fill_value(spec: ArraySpec) -> bool | int | float:
    """Zero, as JSON spells it for the data type. It stands for nothing: every chunk is written."""
    kind = spec.encoding.logical_dtype.kind
    return False if kind == "b" else 0 if kind in "iu" else 0.0


def _attributes(spec: ArraySpec) -> dict[str, Any]:
    attributes = {"key": spec.key, "encoding": spec.encoding.name, "exactness": spec.exactness}
    return attributes | ({"row_scale": asdict(spec.row_scale)} if spec.row_scale else {})
