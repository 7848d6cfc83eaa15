"""Tokenizers from Hugging Face's tokenizer.json, with the special tokens that tokenizer_config.json names.

As transformers 5.23 loads them: a text is surrounded with what tokenizer.json's post-processor says and
nothing else (it ignores ``add_bos_token`` in tokenizer_config.json when there is a tokenizer.json), and
special tokens that only tokenizer_config.json knows are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from wvindex.errors import LimitExceeded, MetadataError
from wvindex.limits import MAX_JSON_BYTES
from wvindex.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken

TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"

_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED: Final = ("additional_special_tokens", "extra_special_tokens")
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_from_files(files: Mapping[str, bytes]) -> Tokenizer:
    """Load ``tokenizer.json``, which must be among `files`.

    Parameters
    ----------
    files : mapping of str to bytes
        Also read: ``tokenizer_config.json``, and, where that has no ``added_tokens_decoder``,
        ``special_tokens_map.json``.

    Returns
    -------
    Tokenizer

    Raises
    ------
    MetadataError
        If a file is malformed, naming it.
    LimitExceeded
        If a file is over `MAX_JSON_BYTES`.
    """
    from tokenizers import Tokenizer as Backend

    text = _text(files, TOKENIZER)
    try:
        backend = Backend.from_str(text)
    except BaseException as error:
        # The library raises plain Exception, and its Rust panics are not even that.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise MetadataError(f"not a tokenizer: {error}", file=TOKENIZER) from error
        raise
    backend.no_truncation()
    backend.no_padding()
    config = _config(files)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in _added_tokens(config):
        if token.content not in known:
            known.add(token.content)
            backend.add_tokens([token])
    return Tokenizer(
        backend,
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        bos_token_id=_id_of(backend.token_to_id, config, "bos_token"),
        eos_token_id=_id_of(backend.token_to_id, config, "eos_token"),
    )


def _text(files: Mapping[str, bytes], name: str) -> str:
    """Decode a file."""
    data = files[name]
    if len(data) > MAX_JSON_BYTES:
        raise LimitExceeded(
            "tokenizer file is too large", file=name, expected=MAX_JSON_BYTES, found=len(data)
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MetadataError("file is not UTF-8", file=name, offset=error.start) from error


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Parse a file that holds a JSON object; empty where there is no such file."""
    if name not in files:
        return {}
    try:
        value = json.loads(_text(files, name))
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"file is not JSON: {error}", file=name) from error
    if not isinstance(value, dict):
        raise MetadataError(
            "file holds no JSON object", file=name, expected="object", found=type(value).__name__
        )
    return value


def _config(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Give tokenizer_config.json, overlaid with special_tokens_map.json where it is of the older form."""
    config = _object(files, CONFIG)
    return config if "added_tokens_decoder" in config else config | _object(files, SPECIAL_TOKENS)


def _added_tokens(config: Mapping[str, Any]) -> Iterator[AddedToken]:
    """Give the tokens that the configuration wants matched whole: by id those that have one, then by name."""
    by_id = _collection(config, "added_tokens_decoder", (dict,))
    if not all(key.isdecimal() for key in by_id):
        raise MetadataError("a key is no token id", file=CONFIG, field="added_tokens_decoder")
    for key in sorted(by_id, key=int):
        yield _added_token(by_id[key], "added_tokens_decoder", special=False)
    for name in _NAMED:
        if config.get(name) is not None:
            yield _added_token(config[name], name, special=True)
    for name in _LISTED:
        listed = _collection(config, name, (list, dict))
        for value in listed.values() if isinstance(listed, dict) else listed:
            yield _added_token(value, name, special=True)


def _collection(config: Mapping[str, Any], field: str, kinds: tuple[type, ...]) -> Any:
    """Give a list or an object of the configuration, empty where it is missing."""
    value = config.get(field)
    if value is None:
        return kinds[0]()
    if not isinstance(value, kinds):
        raise MetadataError(
            "field has the wrong type",
            file=CONFIG,
            field=field,
            expected=" or ".join(kind.__name__ for kind in kinds),
            found=type(value).__name__,
        )
    return value


def _added_token(value: object, field: str, *, special: bool) -> AddedToken:
    """Make an added token of a string, or of an object with a content and flags."""
    from tokenizers import AddedToken

    given = value if isinstance(value, dict) else {"content": value}
    content = given.get("content")
    flags = {name: given[name] for name in _FLAGS if name in given}
    if not isinstance(content, str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise MetadataError(
            "a special token is neither a string nor a content with flags",
            file=CONFIG,
            field=field,
            found=value,
        )
    return AddedToken(content, **({"special": special, "normalized": not special} | flags))


def _id_of(token_to_id: Any, config: Mapping[str, Any], name: str) -> int | None:
    """Give the id of the token that the configuration calls `name`, or None where it names none."""
    value = config.get(name)
    if value is None:
        return None
    token_id: int | None = token_to_id(_added_token(value, name, special=True).content)
    return token_id
