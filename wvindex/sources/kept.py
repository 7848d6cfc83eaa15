"""What of a checkpoint is neither weights nor tokenizer, but must come back when a store is exported.

A store keeps it in files below ``source/``. Of safetensors these are ``config.json`` and the index as they
are, and what the files' headers say besides tensors; of GGUF, every metadata key with its type, and the
tensors that become part of the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from wvindex.formats.ledger import IN_CONFIG, LedgerEntry
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import Source
from wvindex.sources.files import read_beside
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.gguf_kept import gguf_document
from wvindex.sources.safetensors import SafetensorsSource

GGUF_METADATA: Final = "source/gguf-metadata.json"
CONFIG: Final = "source/config.json"
INDEX: Final = "source/index.json"
HEADERS: Final = "source/safetensors.json"


def kept_files(source: Source, ledger: Iterable[LedgerEntry]) -> dict[str, bytes]:
    """Give the files that a store keeps of a checkpoint, by their paths below the store's root.

    Parameters
    ----------
    source : Source
    ledger : iterable of LedgerEntry
        Says which tensors became part of the configuration.

    Raises
    ------
    MalformedHeader
        If a string in GGUF metadata is not UTF-8.
    SourceError
        If an index can no longer be read.
    """
    in_config = {entry.tensor for entry in ledger if entry.reason == IN_CONFIG}
    if isinstance(source, GGUFSource):
        return {GGUF_METADATA: _dumped(gguf_document(source, in_config))}
    if isinstance(source, SafetensorsSource):
        return _safetensors_files(source)
    return {}


def _safetensors_files(source: SafetensorsSource) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if source.config_file is not None:
        files[CONFIG] = source.config_file
    index = source.checkpoint.index
    data = read_beside(source.checkpoint.directory, index, MAX_JSON_BYTES) if index is not None else None
    if data is not None:
        files[INDEX] = data
    headers = {name: header.metadata for name, header in source.headers.items()}
    files[HEADERS] = _dumped({"index": index, "metadata": headers})
    return files


def _dumped(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode("ascii")
