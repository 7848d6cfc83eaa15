"""safetensors files of a result: their headers, and which tensors stand in which.

The header is written as the safetensors library writes it: compact JSON, ``__metadata__`` first, entries in
the order of the data, padded with spaces to eight bytes. Where that library wrote a checkpoint, fusing and
taking apart again so gives the same files, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wvindex.converting.arrange import rearranged
from wvindex.converting.staged import Constant, Content
from wvindex.converting.tensors import OutTensor, TensorBytes
from wvindex.sources.base import TensorInfo
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import LENGTH_BYTES

_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 8


def arranged(
    source: SafetensorsSource,
    tensors: Sequence[TensorInfo],
    replaced: Mapping[str, Sequence[OutTensor]],
    added: Sequence[OutTensor] = (),
) -> list[OutTensor]:
    """Give the tensors of one file of the result, in the order of its data.

    Parameters
    ----------
    source : SafetensorsSource
    tensors : sequence of TensorInfo
        Of the source's file of this name, by offset.
    replaced : mapping of str to sequence of OutTensor
        What stands in the place of a tensor.
    added : sequence of OutTensor
        What else belongs into this file.
    """
    old = [
        OutTensor(info.name, info.encoding.name, info.shape, TensorBytes(source, info, 0, info.nbytes))
        for info in tensors
    ]
    return rearranged(old, replaced, added, name=lambda one: one.name, group=lambda one: one.dtype)


def file_contents(tensors: Sequence[OutTensor], metadata: Mapping[str, str] | None) -> list[Content]:
    """Give what a safetensors file is made of: the header's length, the header, the tensors."""
    document: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    end = 0
    for one in tensors:
        start, end = end, end + one.content.nbytes
        document[one.name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [start, end]}
    header = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    length = len(header).to_bytes(LENGTH_BYTES, "little")
    return [Constant(length + header), *(one.content for one in tensors)]
