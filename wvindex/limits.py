"""Every cap on untrusted input, each with its reason."""

from __future__ import annotations

from typing import Final

MAX_HEADER_BYTES: Final = 64 << 20
"""A GGUF header. A 256k-token vocabulary with merges is about 12 MiB; reading 64 MiB takes about a second."""

MAX_SAFETENSORS_HEADER: Final = 100_000_000
"""The safetensors library's own cap on the JSON header."""

MAX_TENSORS: Final = 1 << 20
"""DeepSeek-V3 has 91,991 tensors in its sharded safetensors; a million leaves room."""

MAX_METADATA_KEYS: Final = 1 << 16
"""GGUF files carry some dozens of keys."""

MAX_ARRAY_ITEMS: Final = 1 << 21
"""Items of one GGUF metadata array: vocabularies have some hundred thousand."""

MAX_ARRAY_DEPTH: Final = 4
"""Nesting of GGUF metadata arrays: real files nest none."""

MAX_JSON_DEPTH: Final = 64
"""Nesting of a config.json, an index or a safetensors header."""

MAX_JSON_BYTES: Final = 256 << 20
"""config.json, an index, tokenizer.json: the largest real one is about 35 MB."""

MAX_NAME_BYTES: Final = 512
"""A tensor or metadata key name; GGUF itself allows 64 bytes for tensors and 65,535 for keys."""

MAX_DIMS: Final = 8
"""Dimensions of a tensor; GGUF allows 4, safetensors any number."""

MAX_ELEMENTS: Final = 1 << 48
"""Elements of one tensor: 2^48 bytes is far beyond any disk, and products stay exact in int64."""

MAX_SHARDS: Final = 4096
"""Files of one checkpoint; the largest hub repositories have a few hundred."""

MAX_ESCAPED_NAME: Final = 240
"""A file name's length in a store: Linux and macOS allow 255 bytes."""

MAX_LAYERS: Final = 4096
"""Layers of a model: bounds the tables that are made for each layer."""

MAX_TEXT_CHARS: Final = 1 << 22
"""Characters of one text: about a million tokens, beyond any model's context. Bounds the time that a
pre-tokenizer's regular expression can take, which for some is quadratic in runs of white space."""

MAX_TOKEN_ID: Final = (1 << 32) - 1
"""The `tokenizers` library holds ids in 32 bits."""

MAX_TOKEN_BYTES: Final = 1 << 10
"""Bytes of one token: real ones have at most some hundreds. Bounds the splits of a SentencePiece piece."""

MAX_EXPERTS: Final = 1 << 16
"""Experts of a layer: the largest models have some hundred. Bounds the tables that are made for each."""

MAX_ROTARY_DIM: Final = 1 << 16
"""Rotated dimensions of a head: real ones have some hundred. Bounds the tables of frequencies."""

PROCESS_BYTES: Final = 128 << 20
"""What a build's process needs whatever it builds: the interpreter, NumPy, and its threads' stacks."""

MAX_NESTED_ARRAYS: Final = 1 << 16
"""Arrays within arrays of a whole header: real files have none, and each takes some microseconds."""

MAX_CHUNK_BYTES: Final = 64 << 30
"""A decoded chunk of an Orbax checkpoint. One host may write a stack of 58 layers' experts as one chunk; what
memory it needs is told before it is read."""

MAX_YAML_BYTES: Final = 1 << 20
"""A MaxText configuration: its base.yml has about 60 KiB."""

MAX_CHECKPOINT_FILES: Final = 1 << 18
"""Files of an Orbax checkpoint: one a chunk where it is no OCDBT database."""
