"""Tokenizers made from GGUF's vocabulary: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").

Facts: llama.cpp's ``src/llama-vocab.cpp`` for what the fields mean and default to; SentencePiece's
``bpe_model.cc`` for the order of its merges (the pair whose union scores highest first).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from wvindex.errors import MetadataError, UnsupportedTokenizer
from wvindex.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from wvindex.tokenizer.tokenizer import Tokenizer
from wvindex.tokenizer.vocabulary import PREFIX, TokenType, Vocabulary, read_vocabulary, text_field

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

SPACE: Final = "▁"
"""SentencePiece writes a space as U+2581."""


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file's ``tokenizer.ggml.*`` metadata describes.

    Control and unknown tokens, and user-defined ones, are matched in the text before anything else. Unlike a
    tokenizer.json, GGUF says nothing of Unicode normalization: none is done, as in llama.cpp.

    Parameters
    ----------
    metadata : mapping of str to object
        By full key.

    Returns
    -------
    Tokenizer

    Raises
    ------
    UnsupportedTokenizer
        If the vocabulary's kind or its pre-tokenizer is not one that is known, by its name.
    MetadataError
        Naming the field, if one is missing, malformed, or contradicts another.
    """
    model = text_field(metadata, "model")
    if model is None:
        raise UnsupportedTokenizer(
            "the GGUF metadata has no vocabulary; give --tokens", field=PREFIX + "model"
        )
    builder = _BUILDERS.get(model)
    if builder is None:
        raise UnsupportedTokenizer(
            f"GGUF vocabularies of the kind {model!r} are not supported; give --tokens",
            field=PREFIX + "model",
            expected=" or ".join(_BUILDERS),
            found=model,
        )
    return builder(metadata)


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build a byte-level BPE tokenizer: bytes as visible characters, merged in the file's order."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    pre_tokenizer = _pre_tokenizer(metadata)
    vocabulary = read_vocabulary(metadata)
    if vocabulary.merges is None:
        raise MetadataError("a byte-level vocabulary needs merges", field=PREFIX + "merges")
    model = models.BPE(
        vocab=_ids(vocabulary),
        merges=list(vocabulary.merges),
        ignore_merges=pre_tokenizer.ignore_merges,
    )
    backend = Backend(model)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return _finish(
        backend,
        vocabulary,
        bos=vocabulary.bos_token_id,
        eos=vocabulary.eos_token_id,
        add_bos=pre_tokenizer.add_bos,
    )


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    """Look up the pre-tokenizer by name; none is guessed."""
    name = text_field(metadata, "pre")
    if name is None:
        raise UnsupportedTokenizer(
            "the GGUF vocabulary does not name its pre-tokenizer; give --tokens", field=PREFIX + "pre"
        )
    if name not in PRE_TOKENIZERS:
        raise UnsupportedTokenizer(
            f"the pre-tokenizer {name!r} is not known; give --tokens", field=PREFIX + "pre", found=name
        )
    return PRE_TOKENIZERS[name]


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build a SentencePiece BPE tokenizer: characters merged by score, bytes for those it lacks."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    vocabulary = read_vocabulary(metadata)
    add_space_prefix = vocabulary.add_space_prefix is not False
    model = models.BPE(
        vocab=_ids(vocabulary),
        merges=_merges_by_score(vocabulary),
        unk_token=_unknown_token(vocabulary),
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    escape = normalizers.Replace(" ", SPACE)
    prefix = [normalizers.Prepend(SPACE)] if add_space_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, escape])
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    unescape = decoders.Replace(SPACE, " ")
    backend.decoder = decoders.Sequence([unescape, decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _finish(
        backend,
        vocabulary,
        bos=_default_id(vocabulary, vocabulary.bos_token_id, 1),
        eos=_default_id(vocabulary, vocabulary.eos_token_id, 2),
        add_bos=True,
    )


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Give every pair of pieces whose union is a piece, the highest-scoring union first.

    SentencePiece keeps no merges: it joins whichever neighbours have the best union. Between the splits of
    one piece the order is by id, as in transformers.
    """
    if vocabulary.scores is None:
        raise MetadataError("a SentencePiece vocabulary needs scores", field=PREFIX + "scores")
    joinable = vocabulary.ids_of(TokenType.NORMAL, TokenType.USER_DEFINED)
    ids = {vocabulary.tokens[i]: i for i in joinable}
    ranked = [
        (-vocabulary.scores[i], left, right)
        for piece, i in ids.items()
        for cut in range(1, len(piece))
        if (left := ids.get(piece[:cut])) is not None and (right := ids.get(piece[cut:])) is not None
    ]
    ranked.sort()
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for _, left, right in ranked]


def _unknown_token(vocabulary: Vocabulary) -> str | None:
    """Give the token for what has neither a piece nor bytes; without all 256 bytes there must be one."""
    marked = vocabulary.ids_of(TokenType.UNKNOWN)
    unknown = (
        vocabulary.unknown_token_id if vocabulary.unknown_token_id is not None else next(iter(marked), None)
    )
    if unknown is not None:
        return vocabulary.tokens[unknown]
    missing = {f"<0x{byte:02X}>" for byte in range(256)}.difference(vocabulary.tokens)
    if missing:
        raise MetadataError(
            "the vocabulary has no unknown token and lacks bytes",
            field=PREFIX + "unknown_token_id",
            expected="an id, or all of <0x00> to <0xFF> as tokens",
            found=f"{len(missing)} bytes without a token",
        )
    return None


def _default_id(vocabulary: Vocabulary, given: int | None, default: int) -> int | None:
    """Fall back to the id that Llama's vocabulary has, where the file gives none and there is such an id."""
    if given is not None:
        return given
    return default if default < len(vocabulary.tokens) else None


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Give each token's id."""
    return {token: index for index, token in enumerate(vocabulary.tokens)}


def _finish(
    backend: Backend, vocabulary: Vocabulary, *, bos: int | None, eos: int | None, add_bos: bool
) -> Tokenizer:
    """Add what both kinds have: tokens matched whole, and BOS and EOS; `add_bos` is the kind's default."""
    from tokenizers import AddedToken

    tokens = vocabulary.tokens
    special = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
    backend.add_special_tokens([AddedToken(tokens[i], normalized=False, special=True) for i in special])
    user_defined = vocabulary.ids_of(TokenType.USER_DEFINED)
    backend.add_tokens([AddedToken(tokens[i], normalized=False, special=False) for i in user_defined])
    wanted_bos = add_bos if vocabulary.add_bos is None else vocabulary.add_bos
    _surround(
        backend,
        bos=_required(bos, "bos") if wanted_bos else None,
        eos=_required(eos, "eos") if vocabulary.add_eos else None,
    )
    return Tokenizer(backend, vocab_size=len(tokens), bos_token_id=bos, eos_token_id=eos)


def _required(token_id: int | None, name: str) -> int:
    """Refuse a vocabulary that is to add a token it does not name."""
    if token_id is None:
        raise MetadataError(f"{name.upper()} is to be added, but has no id", field=f"{PREFIX}{name}_token_id")
    return token_id


def _surround(backend: Backend, *, bos: int | None, eos: int | None) -> None:
    """Have every encoded text begin with BOS and end with EOS, where these are given.

    The template has names of its own for the two: a token's text could break its syntax.
    """
    from tokenizers import processors

    single = ["bos", "$A"] if bos is not None else ["$A"]
    special = [(name, token_id) for name, token_id in (("bos", bos), ("eos", eos)) if token_id is not None]
    if eos is not None:
        single.append("eos")
    backend.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=special)


_BUILDERS: Final[dict[str, Callable[[Mapping[str, Any]], Tokenizer]]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}
