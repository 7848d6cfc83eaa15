"""The ``zarr.json`` documents of a store: Zarr v3 metadata, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from wvindex.formats.arrays import ArraySpec
from wvindex.store.layout import CHUNK_SEPARATOR, ChunkGrid

FORMAT: Final = 1
"""Version of the store's format that is written, and the newest that is read."""

ZARR_JSON: Final = "zarr.json"
CATALOG_JSON: Final = "catalog.json"


def dumps(document: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    """Give `document` as JSON in ASCII, members in their order; NaN is refused with ValueError."""
    return (json.dumps(document, indent=indent, allow_nan=False) + "\n").encode("ascii")


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the document of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def array_metadata(spec: ArraySpec, grid: ChunkGrid) -> dict[str, Any]:
    """Give the document of an array.

    Plain arrays are Zarr's own: any reader opens them. Packed and scaled ones have the logical data type
    float32 and a codec of `wvindex.store.codec`, which is told how many rows a short last chunk holds.
    """
    from wvindex.store.codec import codec_metadata

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


def _fill_value(spec: ArraySpec) -> bool | int | float:
    """Zero, as JSON spells it for the data type. It stands for nothing: every chunk is written."""
    kind = spec.encoding.logical_dtype.kind
    return False if kind == "b" else 0 if kind in "iu" else 0.0


def _attributes(spec: ArraySpec) -> dict[str, Any]:
    attributes = {"key": spec.key, "encoding": spec.encoding.name, "exactness": spec.exactness}
    return attributes | ({"row_scale": asdict(spec.row_scale)} if spec.row_scale else {})
