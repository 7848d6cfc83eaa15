"""Tokenizers in the form that each format has: as found, or converted where that is exact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wvindex.errors import UnsupportedTokenizer
from wvindex.exporting.gguf_file import typed, typed_array
from wvindex.exporting.held import Held
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.base import TokenizerData
from wvindex.sources.gguf_kept import TypedValue
from wvindex.sources.safetensors import TOKENIZER_FILES
from wvindex.tokenizer import load_tokenizer
from wvindex.tokenizer.huggingface import CONFIG, TOKENIZER
from wvindex.tokenizer.pretokenizers import PRE_TOKENIZERS
from wvindex.tokenizer.vocabulary import PREFIX, TokenType

_TEMPLATE: Final = "tokenizer.chat_template"
_TEMPLATE_FILE: Final = "chat_template.jinja"
_NAMED: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""What tokenizer_config.json names by text, and GGUF by id."""

_HINT: Final = "; leave it out with tokenizer=False"


def hub_tokenizer(held: Held) -> dict[str, bytes]:
    """Give tokenizer files: those that the source had, or made of GGUF's vocabulary.

    Raises
    ------
    UnsupportedTokenizer
        If the vocabulary is of a kind that has no tokenizer.json here.
    """
    found = held.tokenizer
    if found is None:
        return {}
    files = {name: data for name, data in found.files.items() if name in TOKENIZER_FILES}
    return files or _files_of(found.gguf)


def _files_of(vocabulary: Mapping[str, Any]) -> dict[str, bytes]:
    if f"{PREFIX}model" not in vocabulary:
        return {}
    try:
        backend = load_tokenizer(TokenizerData(files={}, gguf=vocabulary))
    except UnsupportedTokenizer as error:
        error.message += _HINT
        raise
    tokens = vocabulary[f"{PREFIX}tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, key in _NAMED.items():
        number = vocabulary.get(PREFIX + key)
        if isinstance(number, int) and 0 <= number < len(tokens):
            config[name] = tokens[number]
    if isinstance(vocabulary.get(_TEMPLATE), str):
        config["chat_template"] = vocabulary[_TEMPLATE]
    return {
        TOKENIZER: (backend.to_json() + "\n").encode(),
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def gguf_tokenizer(held: Held, tensors: Sequence[OutTensor]) -> dict[str, TypedValue]:
    """Give ``tokenizer.*`` metadata of a tokenizer.json, where they say all that it does.

    Raises
    ------
    UnsupportedTokenizer
        Naming the part of it that GGUF cannot say.
    """
    found = held.tokenizer
    if found is None:
        return {}
    if TOKENIZER not in found.files:
        if found.gguf:
            kept = held.gguf()
            return {k: v for k, v in kept.metadata.items() if k.startswith("tokenizer.")} if kept else {}
        raise _refused(TOKENIZER, "a tokenizer.json", ", ".join(sorted(found.files)))
    loaded = load_tokenizer(found)
    document = json.loads(loaded.to_json())
    embedding = next((one for one in tensors if one.name == "token_embd.weight"), None)
    rows = embedding.shape[0] if embedding is not None else loaded.vocab_size
    tokens, types = _vocabulary(document, rows)
    name = _pre_tokenizer(document)
    add_bos, add_eos = _surrounding(document, loaded.bos_token_id, loaded.eos_token_id)
    result = {
        f"{PREFIX}model": typed("STRING", "gpt2"),
        f"{PREFIX}pre": typed("STRING", name),
        f"{PREFIX}tokens": typed_array("STRING", tokens),
        f"{PREFIX}token_type": typed_array("INT32", types),
        f"{PREFIX}merges": typed_array("STRING", _merges(document)),
        f"{PREFIX}add_bos_token": typed("BOOL", add_bos),
        f"{PREFIX}add_eos_token": typed("BOOL", add_eos),
    }
    for key, number in _named_ids(found.files, tokens).items():
        result[PREFIX + key] = typed("UINT32", number)
    template = _template(found.files)
    return result | ({_TEMPLATE: typed("STRING", template)} if template is not None else {})


def _vocabulary(document: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Give every token by id, and its type; ids that the embedding alone has are unused ones."""
    model = document["model"]
    _require("model.type", "BPE", model.get("type"))
    for name in ("unk_token", "dropout"):
        _require(f"model.{name}", None, model.get(name))
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        _require(f"model.{name}", None, model.get(name) or None)
    _require("normalizer", None, document.get("normalizer"))
    _require("decoder", "ByteLevel", (document.get("decoder") or {}).get("type"))
    found = {number: (token, TokenType.NORMAL) for token, number in model["vocab"].items()}
    for added in document["added_tokens"]:
        for name in ("single_word", "lstrip", "rstrip"):
            _require(f"added_tokens.{added['content']}.{name}", False, added[name])
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        found[added["id"]] = (added["content"], kind)
    if max(found) >= rows:
        raise _refused("model.vocab", f"ids below {rows}, the embedding's rows", max(found))
    all_ids = [found.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(rows)]
    return [token for token, _ in all_ids], [int(kind) for _, kind in all_ids]


def _merges(document: Mapping[str, Any]) -> list[str]:
    merges = document["model"]["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or any(" " in part for part in pair):
            raise _refused("model.merges", "two tokens without spaces", pair)
    return [" ".join(pair) for pair in pairs]


def _pre_tokenizer(document: Mapping[str, Any]) -> str:
    """Find the name that GGUF has for how text is cut."""
    patterns = _patterns(document.get("pre_tokenizer") or {})
    ignores = bool(document["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if tuple(map(_escaped, known.patterns)) == patterns and known.ignore_merges == ignores:
            return name
    raise _refused("pre_tokenizer", "one that GGUF has a name for", patterns)


def _escaped(pattern: str) -> str:
    """Give a regular expression with line ends as escapes: DeepSeek's tokenizers have the characters."""
    return pattern.replace("\r", "\\r").replace("\n", "\\n")


def _patterns(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the regular expressions that cut text one after another, before bytes become characters."""
    steps = node.get("pretokenizers", [node])
    patterns: list[str] = []
    for step in steps[:-1]:
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        is_plain = step.get("behavior") == "Isolated" and not step.get("invert")
        if step.get("type") != "Split" or not is_plain or not isinstance(regex, str):
            raise _refused("pre_tokenizer", "Split by a regular expression, isolated", step)
        patterns.append(regex)
    last = steps[-1] if steps else {}
    _require("pre_tokenizer", ("ByteLevel", False), (last.get("type"), last.get("add_prefix_space")))
    if last.get("use_regex"):
        patterns += PRE_TOKENIZERS["gpt-2"].patterns
    return tuple(map(_escaped, patterns))


def _surrounding(document: Mapping[str, Any], bos: int | None, eos: int | None) -> tuple[bool, bool]:
    """Tell whether BOS stands before every text, and EOS behind."""
    node = document.get("post_processor")
    steps = node.get("processors", [node]) if node else []
    steps = [step for step in steps if step["type"] != "ByteLevel"]
    if not steps:
        return False, False
    if len(steps) > 1 or steps[0]["type"] != "TemplateProcessing":
        raise _refused("post_processor", "a template", [step["type"] for step in steps])
    template = steps[0]
    ids = [_piece(template, piece) for piece in template["single"]]
    for add_bos in (False, True):
        for add_eos in (False, True):
            if ids == [*([bos] if add_bos else []), "text", *([eos] if add_eos else [])]:
                return add_bos, add_eos
    raise _refused("post_processor", "BOS, the text, EOS", template["single"])


def _piece(template: Mapping[str, Any], piece: Mapping[str, Any]) -> Any:
    if "Sequence" in piece:
        return "text"
    numbers = template["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _named_ids(files: Mapping[str, bytes], tokens: Sequence[str]) -> dict[str, int]:
    """Give the ids of the tokens that tokenizer_config.json names."""
    config = json.loads(files.get(CONFIG, b"{}"))
    ids = {token: number for number, token in enumerate(tokens)}
    texts = {key: config.get(name) for name, key in _NAMED.items()}
    contents = {key: one.get("content") if isinstance(one, Mapping) else one for key, one in texts.items()}
    return {key: ids[content] for key, content in contents.items() if content in ids}


def _template(files: Mapping[str, bytes]) -> str | None:
    """Give the chat template, from where either form of a checkpoint has it."""
    if _TEMPLATE_FILE in files:
        return files[_TEMPLATE_FILE].decode("utf-8", "strict")
    config = json.loads(files.get(CONFIG, b"{}"))
    template = config.get("chat_template")
    if isinstance(template, list):
        raise _refused("chat_template", "one template", f"{len(template)} of them")
    return template if isinstance(template, str) else None


def _require(field: str, expected: object, found: object) -> None:
    if found != expected:
        raise _refused(field, expected, found)


def _refused(field: str, expected: object, found: object) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"GGUF cannot say exactly what this tokenizer does{_HINT}",
        field=field,
        expected="nothing" if expected is None else expected,
        found="nothing" if found is None else found,
    )
