"""WV5xx: the vocabulary against the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wvindex.errors import MetadataError
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.query.lazy import Tensor
from wvindex.tokenizer import Tokenizer


def _vocabularies(model: Model) -> Iterator[Tensor]:
    """Give the embedding and the head, as far as they are matrices that are checked."""
    for key in (EMBEDDING, HEAD):
        if key in model.tensors and model.tensors[key].ndim == 2:
            yield model.tensors[key]


def _tokenizer(model: Model) -> Tokenizer | None:
    return model.tokenizer if isinstance(model.tokenizer, Tokenizer) else None


def too_small(model: Model) -> Iterator[Found]:
    """Tokens that have no row."""
    for tensor in _vocabularies(model):
        tokenizer = _tokenizer(model)
        if tokenizer is not None and len(tensor) < tokenizer.vocab_size:
            yield Found(
                tensor=tensor.key,
                row=len(tensor),
                message=f"{len(tensor)} rows for the tokenizer's {tokenizer.vocab_size} tokens",
                count=tokenizer.vocab_size - len(tensor),
            )


def padded(model: Model) -> Iterator[Found]:
    """Rows that are no token's."""
    for tensor in _vocabularies(model):
        tokenizer = _tokenizer(model)
        if tokenizer is not None and len(tensor) > tokenizer.vocab_size:
            count = len(tensor) - tokenizer.vocab_size
            yield Found(
                tensor=tensor.key,
                row=tokenizer.vocab_size,
                message=f"{count} of {len(tensor)} rows are no token's: the tokenizer has "
                f"{tokenizer.vocab_size}",
                count=count,
            )


def special_out_of_range(model: Model) -> Iterator[Found]:
    """Special tokens that have no row."""
    rows = next((len(tensor) for tensor in _vocabularies(model)), None)
    if rows is None:
        return
    for name, token in dict.fromkeys(_special(model)):
        if not 0 <= token < rows:
            yield Found(
                tensor=EMBEDDING,
                message=f"{name} is {token}, but the embedding has {rows} rows",
                value=token,
            )


def _special(model: Model) -> Iterator[tuple[str, int]]:
    config, tokenizer = model.config, _tokenizer(model)
    if config.bos_token_id is not None:
        yield "bos_token_id", config.bos_token_id
    for token in config.eos_token_ids:
        yield "eos_token_id", token
    if tokenizer is not None and tokenizer.bos_token_id is not None:
        yield "the tokenizer's bos_token_id", tokenizer.bos_token_id
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        yield "the tokenizer's eos_token_id", tokenizer.eos_token_id


def missing_eos(model: Model) -> Iterator[Found]:
    """A model that cannot stop."""
    tokenizer = _tokenizer(model)
    if tokenizer is not None and not model.config.eos_token_ids and tokenizer.eos_token_id is None:
        yield Found(message="neither the configuration nor the tokenizer names a token that ends a text")


def malformed(model: Model) -> Iterator[Found]:
    """A tokenizer that contradicts itself."""
    if isinstance(model.tokenizer, MetadataError):
        yield Found(message=f"the tokenizer cannot be read: {model.tokenizer}")


RULES: Final = (
    Rule(
        id="WV501",
        name="vocabulary-too-small",
        severity="error",
        title="Fewer embedding or head rows than the tokenizer has tokens",
        help="A text with one of the tokens beyond fails, or reads other memory. Tokens were added "
        "without resizing the embedding, or this is another model's tokenizer.",
        find=too_small,
        reads_weights=False,
    ),
    Rule(
        id="WV502",
        name="vocabulary-padded",
        severity="info",
        title="More embedding or head rows than the tokenizer has tokens",
        help="Vocabularies are padded to a round number. Many rows too many may be a tokenizer that "
        "lacks its added tokens.",
        find=padded,
        reads_weights=False,
    ),
    Rule(
        id="WV503",
        name="special-token-out-of-range",
        severity="error",
        title="A special token's id is beyond the embedding",
        help="The configuration or the tokenizer is another model's.",
        find=special_out_of_range,
        reads_weights=False,
    ),
    Rule(
        id="WV504",
        name="missing-eos",
        severity="warning",
        title="No token ends a text",
        help="Generation stops at its limit only. GGUF: tokenizer.ggml.eos_token_id; else eos_token_id "
        "in config.json, or eos_token in tokenizer_config.json.",
        find=missing_eos,
        reads_weights=False,
    ),
    Rule(
        id="WV505",
        name="malformed-tokenizer",
        severity="error",
        title="A tokenizer that contradicts itself",
        help="A field is missing, or of the wrong type, or refers to tokens that are not there. A "
        "tokenizer of a kind that wvindex does not know is a note, not a finding.",
        find=malformed,
        reads_weights=False,
    ),
)
