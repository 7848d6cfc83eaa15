"""What a configuration says of experts and of the vocabulary, held against the tensors' headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.fields import Fields
from wvindex.errors import MetadataError
from wvindex.formats.encodings import FLOAT_ENCODINGS
from wvindex.sources.base import Source, TensorInfo

_EMBEDDING: Final = re.compile(
    r"token_embd\.weight|(model\.|language_model\.)*embed_tokens\.weight",
)
_ROUTED: Final = re.compile(r"(?:blk|.*\blayers)\.(\d+)\.(?:ffn_gate_exps|mlp\.experts)\..*", re.DOTALL)
_DENSE: Final = re.compile(r"(?:blk|.*\blayers)\.(\d+)\.(?:ffn_gate|mlp\.gate_proj)\.weight")
_SHARED: Final = re.compile(
    r"(?:blk|.*\blayers)\.\d+\.(?:ffn_gate_shexp|mlp\.shared_experts\.gate_proj)\.weight"
)

# A name of a hundred thousand ends as one of these before a pattern looks at it.
_EMBEDDING_ENDS: Final = ("token_embd.weight", "embed_tokens.weight")
_DENSE_ENDS: Final = (".ffn_gate.weight", ".mlp.gate_proj.weight")
_SHARED_ENDS: Final = (".ffn_gate_shexp.weight", ".mlp.shared_experts.gate_proj.weight")
_ENDS: Final = (*_EMBEDDING_ENDS, *_DENSE_ENDS, *_SHARED_ENDS)


def require_agreement(source: Source, f: Fields, config: ModelConfig) -> None:
    """Refuse a stated number that the tensors contradict.

    A field that is not stated is not checked; nor is one whose tensors are elsewhere, for one shard of a
    checkpoint may be opened alone. An embedding may have more rows than the vocabulary: it is padded.

    Parameters
    ----------
    source : Source
    f : Fields
        Hub form.
    config : ModelConfig
        As read from it.

    Raises
    ------
    MetadataError
        Naming the field, what the tensors make of it, and what it says.
    """
    tensors = list(_telling(source.tensors()))
    _require_vocabulary(tensors, f.raw.get("vocab_size"))
    if config.moe is None:
        return
    if "first_k_dense_replace" in f and f.integer("moe_layer_freq", 1) == 1:
        _require_leading_dense(tensors, f.integer("first_k_dense_replace"))
    if "n_shared_experts" in f:
        _require_shared(tensors, config.moe.n_shared_experts, config.moe.moe_intermediate_size)


def require_vocabulary(source: Source, stated: object) -> None:
    """Refuse a ``vocab_size`` of 0, or of more than the embedding has rows."""
    _require_vocabulary(source.tensors(), stated)


def _require_vocabulary(tensors: Iterable[TensorInfo], stated: object) -> None:
    for info in tensors:
        if not info.hub_name.endswith(_EMBEDDING_ENDS) or not _EMBEDDING.fullmatch(info.hub_name):
            continue
        if not isinstance(stated, int) or not info.shape:
            continue
        if not 0 < stated <= info.shape[0] and _has_its_own_shape(info):
            raise _error(info, "vocab_size", f"1 to {info.shape[0]}, the embedding's rows", stated)


def _require_leading_dense(tensors: Sequence[TensorInfo], stated: int) -> None:
    """Layers from `stated` on have experts, and none before."""
    experts = _by_layer(_ROUTED, tensors)
    dense = _by_layer(_DENSE, (info for info in tensors if info.hub_name.endswith(_DENSE_ENDS)))
    least, most = max(dense, default=-1) + 1, min(experts, default=stated)
    if experts and most < stated and least <= most:
        raise _error(experts[most], "first_k_dense_replace", _range(least, most), stated)
    if stated < least and (not experts or least <= most):
        expected = _range(least, most) if experts else f"at least {least}"
        raise _error(dense[least - 1], "first_k_dense_replace", expected, stated)


def _telling(tensors: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """Leave out most of the hundreds of tensors of each ``mlp.experts``: the first tells as much."""
    seen: set[str] = set()
    for info in tensors:
        name = info.hub_name
        module, separator, _ = name.rpartition(".mlp.experts.")
        if separator and module in seen and not name.endswith(_ENDS):
            continue
        if separator:
            seen.add(module)
        yield info


def _by_layer(pattern: re.Pattern[str], tensors: Iterable[TensorInfo]) -> dict[int, TensorInfo]:
    """Give the first tensor of each layer whose name a pattern matches."""
    layers: dict[int, TensorInfo] = {}
    for info in tensors:
        if match := pattern.fullmatch(info.hub_name):
            layers.setdefault(int(match[1]), info)
    return layers


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _require_shared(tensors: Iterable[TensorInfo], stated: int, width: int) -> None:
    for info in tensors:
        if not info.hub_name.endswith(_SHARED_ENDS) or not _SHARED.fullmatch(info.hub_name):
            continue
        if len(info.shape) != 2 or not _has_its_own_shape(info):
            continue
        if info.shape[0] != stated * width:
            expected = f"{info.shape[0] / width:g}, for {info.shape[0]} rows of experts of {width}"
            raise _error(info, "n_shared_experts", expected, stated)


def _has_its_own_shape(info: TensorInfo) -> bool:
    """Whether the shape is the weight's: integer codes pack several weights into one."""
    return not info.encoding.is_plain or info.encoding.name in FLOAT_ENCODINGS


def _error(info: TensorInfo, field: str, expected: str, found: object) -> MetadataError:
    return MetadataError(
        "the configuration contradicts the tensors",
        file=info.file,
        tensor=info.name,
        field=field,
        expected=expected,
        found=found,
    )
