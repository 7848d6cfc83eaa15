"""Tokenizers for tests: from GGUF metadata without the prefix, from a GGUF file, from a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from tests.support.tokenizer import CONTROL_TOKENS, MERGES, vocabulary
from wvindex.sources.base import TokenizerData
from wvindex.tokenizer import Tokenizer, load_tokenizer

REPO_GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> Any:
    """Read ``tests/golden/tokenizer_<name>.json``."""
    return json.loads((REPO_GOLDEN / f"tokenizer_{name}.json").read_text())


def from_gguf_fields(**fields: Any) -> Tokenizer:
    """Load from ``tokenizer.ggml.*`` metadata; a field that is None is left out."""
    gguf = {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}
    return load_tokenizer(TokenizerData(files={}, gguf=gguf))


def from_files(**files: Any) -> Tokenizer:
    """Load from files by stem: JSON values, or bytes as they are."""
    data = {
        f"{stem}.json": value if isinstance(value, bytes) else json.dumps(value).encode()
        for stem, value in files.items()
    }
    return load_tokenizer(TokenizerData(files=data, gguf={}))


def gguf_tokenizer_fields(file: Path) -> dict[str, Any]:
    """Read a GGUF file's ``tokenizer.ggml.*`` metadata with the gguf package."""
    prefix = "tokenizer.ggml."
    fields = GGUFReader(file).fields.items()
    return {name.removeprefix(prefix): field.contents() for name, field in fields if name.startswith(prefix)}


def byte_level_fields(**fields: Any) -> dict[str, Any]:
    """Give the fields of the 264-token test vocabulary, with changes."""
    tokens = vocabulary()
    n_control = len(CONTROL_TOKENS)
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3] * n_control + [1] * (len(tokens) - n_control),
        "merges": list(MERGES),
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | fields


def sentencepiece_fields(**fields: Any) -> dict[str, Any]:
    """Give the fields of a small SentencePiece vocabulary, with changes."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["▁", "a", "b", "ab", "▁a", "▁ab"]
    return {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", *byte_tokens, *pieces],
        "token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "scores": [0.0] * 259 + [-10.0, -11.0, -12.0, -1.0, -2.0, -3.0],
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | fields
