"""The tokenizer of every test model: byte-level BPE as GPT-2 has it, with six merges."""

from __future__ import annotations

from typing import Any

CONTROL_TOKENS = ("<s>", "</s>")
MERGES = ("t h", "th e", "Ġ the", "i n", "a n", "an d")


def byte_symbols() -> list[str]:
    """Give GPT-2's visible character for each byte, in its vocabulary's order (openai/gpt-2, encoder.py).

    Printable Latin-1 stands for itself; the others take the code points from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]


def vocabulary() -> list[str]:
    """Give the 264 tokens by id."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*CONTROL_TOKENS, *byte_symbols(), *merged]


def tokenizer_json() -> dict[str, Any]:
    """Give the `tokenizer.json` of a Hugging Face checkpoint."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "vocab": {token: index for index, token in enumerate(vocabulary())},
        "merges": list(MERGES),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token} | flags for i, token in enumerate(CONTROL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }


def tokenizer_config() -> dict[str, Any]:
    """Give the `tokenizer_config.json` beside it."""
    return {
        "add_bos_token": False,
        "bos_token": CONTROL_TOKENS[0],
        "eos_token": CONTROL_TOKENS[1],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
