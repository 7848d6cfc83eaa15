r"""Write the golden token ids: python tests/golden/make_tokenizer_golden.py.

Needs the versions below; the tests need none of sentencepiece, transformers and regex.

``tokenizer_spm.json``: two SentencePiece vocabularies, one of a Llama-like model made by others and one
trained here like Gemma's (whole runs of spaces, user-defined symbols, no prefix), with what sentencepiece
encodes. Their normalizers are replaced by the identity: GGUF carries no normalization.

``tokenizer_byte_level.json``: one byte-level vocabulary whose merges cross the borders of words, so that each
pre-tokenizer gives ids of its own, with what transformers encodes (its GGUF converter; Cohere's class; the
pre-tokenizer of a DeepSeek-V3 tokenizer.json), and, where transformers has none, the ``regex`` package.

``tokenizer_hugging_face.json``: the files of small tokenizers, and what AutoTokenizer makes of them.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import regex
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer
from transformers.models.cohere.tokenization_cohere import CohereTokenizer

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.golden import GOLDEN
from tests.support.tokenizer import tokenizer_config, tokenizer_json
from tests.support.tokenizer_texts import TEXTS

HERE = Path(__file__).parent
VERSIONS = {"transformers": "5.23.0", "sentencepiece": "0.2.3"}
CORPUS = [line for topic in sorted(topics) for line in topics[topic].splitlines()] + list(TEXTS) * 300

BY_TRANSFORMERS = {"gpt-2": False, "llama-bpe": True, "qwen2": False, "qwen35": False, "tekken": True}
BY_TRANSFORMERS |= {"gpt-4o": False}
BY_COHERE = ("command-r", "starcoder", "smollm")

# moonshotai/Kimi-K2-Base, tokenization_kimi.py
KIMI_K2 = "|".join(
    [
        r"""[\p{Han}]+""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
BY_REGEX = {
    "kimi-k2": [KIMI_K2],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+", r"\p{N}"],
}


def byte_level_vocabulary() -> tuple[list[str], list[str]]:
    """Train 1,600 byte-level tokens on whole lines: (tokens, merges)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(merge) for merge in model["merges"]]


def pairs(merges: list[str]) -> list[tuple[str, str]]:
    """Cut each merge at its space."""
    return [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]


def by_transformers(tokens: list[str], merges: list[str], pre: str, ignore_merges: bool) -> Tokenizer:
    """Build with transformers' GGUF converter."""
    metadata = {"tokenizer_type": "gpt2", "pre_tokenizer_type": pre, "tokens": tokens, "merges": merges}
    types = [3 if token.startswith("<|") else 1 for token in tokens]
    backend: Tokenizer = convert_gguf_tokenizer("llama", metadata | {"token_type": types})[0]
    backend.model.ignore_merges = ignore_merges
    return backend


def by_cohere(tokens: list[str], merges: list[str]) -> Tokenizer:
    """Build with transformers' class for Command R, without its Unicode normalization."""
    vocab = {token: i for i, token in enumerate(tokens)}
    backend: Tokenizer = CohereTokenizer(vocab=vocab, merges=pairs(merges)).backend_tokenizer
    backend.normalizer = None
    return backend


def by_tokenizer_json(tokens: list[str], merges: list[str], file: Path) -> Tokenizer:
    """Put the vocabulary into the tokenizer.json of another model."""
    value = json.loads(file.read_text())
    value["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    value["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(value))


def by_regex(tokens: list[str], merges: list[str], patterns: list[str]) -> Callable[[str], list[int]]:
    """Cut with the regex package, then merge each piece."""
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, pairs(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    compiled = [regex.compile(pattern, regex.V1) for pattern in patterns]

    def encode(text: str) -> list[int]:
        pieces = [text]
        for pattern in compiled:
            pieces = [part for piece in pieces for part in isolate(pattern, piece)]
        return [i for piece in pieces for i in backend.encode(piece).ids]

    return encode


def isolate(pattern: regex.Pattern[str], text: str) -> list[str]:
    """Cut a text into matches and what lies between them."""
    cuts = [0, *(edge for match in pattern.finditer(text) for edge in match.span()), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def byte_level_golden() -> dict[str, Any]:
    """Encode every text with every pre-tokenizer."""
    tokens, merges = byte_level_vocabulary()
    built = {pre: by_transformers(tokens, merges, pre, flag) for pre, flag in BY_TRANSFORMERS.items()}
    built |= dict.fromkeys(BY_COHERE, by_cohere(tokens, merges))
    built["deepseek-v3"] = by_tokenizer_json(tokens, merges, GOLDEN / "dsv3-tiny" / "tokenizer.json")
    ids = {pre: [b.encode(text, add_special_tokens=False).ids for text in TEXTS] for pre, b in built.items()}
    for pre, patterns in BY_REGEX.items():
        encode = by_regex(tokens, merges, patterns)
        ids[pre] = [encode(text) for text in TEXTS]
    return {"tokens": tokens, "merges": merges, "ids": ids}


def gemma_like() -> bytes:
    """Train 700 pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in CORPUS if line),
        model_writer=model,
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        user_defined_symbols=["<table>", "</table>", "<start_of_turn>"],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def spm_golden(model: bytes) -> dict[str, Any]:
    """Encode every text with sentencepiece, and give the vocabulary as GGUF holds it."""
    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    proto.ParseFromString(model)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.precompiled_charsmap = b""
    proto.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return {
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [round(piece.score, 6) for piece in proto.pieces],
        "token_type": [int(piece.type) for piece in proto.pieces],
        "add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
        "ids": [processor.encode(text) for text in TEXTS],
    }


def hugging_face_variants() -> dict[str, dict[str, Any]]:
    """Give tokenizer files by variant: where BOS comes from, and tokens that only the configuration knows."""
    plain, config = tokenizer_json(), tokenizer_config()
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {
        "0": {"content": "<s>", "special": True} | flags,
        "1": {"content": "</s>", "special": True} | flags,
        "264": {"content": "<think>", "special": False} | flags,
        "265": {"content": "<tool>", "special": True} | flags | {"lstrip": True},
    }
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    return {
        "config asks for BOS": {
            "tokenizer.json": plain,
            "tokenizer_config.json": config | {"add_bos_token": True, "add_eos_token": True},
        },
        "template adds BOS": {
            "tokenizer.json": plain | {"post_processor": template},
            "tokenizer_config.json": config,
        },
        "config adds tokens": {
            "tokenizer.json": plain,
            "tokenizer_config.json": config
            | {
                "added_tokens_decoder": decoder,
                "pad_token": "<pad>",
                "eos_token": {"__type": "AddedToken", "content": "</s>"} | flags,
            },
        },
        "special tokens map": {
            "tokenizer.json": plain | {"added_tokens": []},
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"} | flags},
        },
        "no config": {"tokenizer.json": plain},
        "truncation": {"tokenizer.json": plain | {"truncation": truncation}, "tokenizer_config.json": config},
    }


def hugging_face_golden() -> dict[str, Any]:
    """Load each variant with AutoTokenizer and encode texts with special tokens in them."""
    texts = ["", "in the land", "<s>the and</s>", "a <think> b<tool>c  <tool> the</think><pad>", "é中🙂"]
    variants = {}
    for name, files in hugging_face_variants().items():
        with tempfile.TemporaryDirectory() as directory:
            for file, value in files.items():
                (Path(directory) / file).write_text(json.dumps(value))
            tokenizer = AutoTokenizer.from_pretrained(directory)
        ids = [tokenizer.encode(text) for text in texts]
        variants[name] = {
            "files": files,
            "ids": ids,
            "decoded": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "vocab_size": len(tokenizer),
        }
    return {"texts": texts, "variants": variants}


def write(name: str, value: dict[str, Any]) -> None:
    """Write one golden file, a line a key."""
    (HERE / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main() -> None:
    """Write both files."""
    found = {"transformers": transformers.__version__, "sentencepiece": sentencepiece.__version__}
    if found != VERSIONS:
        raise SystemExit(f"needs {VERSIONS}, found {found}")
    llama = (GOLDEN / "llama-tiny" / "tokenizer.model").read_bytes()
    write("tokenizer_spm.json", {"llama": spm_golden(llama), "gemma": spm_golden(gemma_like())})
    write("tokenizer_byte_level.json", byte_level_golden())
    write("tokenizer_hugging_face.json", hugging_face_golden())


if __name__ == "__main__":
    main()
