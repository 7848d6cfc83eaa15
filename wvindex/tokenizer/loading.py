"""Where a checkpoint's tokenizer comes from: tokenizer.json first, then GGUF's vocabulary."""

from __future__ import annotations

from wvindex.errors import UnsupportedTokenizer
from wvindex.sources.base import TokenizerData
from wvindex.tokenizer.gguf import tokenizer_from_gguf
from wvindex.tokenizer.huggingface import TOKENIZER, tokenizer_from_files
from wvindex.tokenizer.tokenizer import Tokenizer


def load_tokenizer(data: TokenizerData) -> Tokenizer:
    """Load a checkpoint's tokenizer.

    Parameters
    ----------
    data : TokenizerData
        As the source or the store holds it.

    Returns
    -------
    Tokenizer

    Raises
    ------
    UnsupportedTokenizer
        If there is none, or only one of a kind that is not known; the message says what was found.
    MetadataError
        If what was found is malformed, naming the file or the field.
    LimitExceeded
        If a tokenizer file is over the cap.
    """
    if TOKENIZER in data.files:
        return tokenizer_from_files(data.files)
    if data.gguf:
        return tokenizer_from_gguf(data.gguf)
    if data.files:
        raise UnsupportedTokenizer(
            "tokenizer files are not supported without a tokenizer.json; give --tokens",
            expected=TOKENIZER,
            found=", ".join(sorted(data.files)),
        )
    raise UnsupportedTokenizer("the store has no tokenizer; give --tokens")
