"""WV7xx: names and encodings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from wvindex.arch.registry import is_known
from wvindex.formats.encodings import FLOAT_ENCODINGS
from wvindex.inspection.linting.model import Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.inspection.linting.rules.scales import is_scale_name
from wvindex.query.lazy import Tensor

SUPER_BLOCK: Final = 256


def unmapped(model: Model) -> Iterator[Found]:
    """Tensors that no rule of the family maps."""
    if model.config.family is None:
        return
    keys = [k for k, t in model.tensors.items() if not t.spec.mapped and not is_scale_name(k)]
    if keys:
        yield Found(
            tensor=keys[0],
            message=f"{len(keys)} tensors are kept under their own names: {listed(keys[:4], len(keys))}",
            count=len(keys),
        )


def unknown_family(model: Model) -> Iterator[Found]:
    """A model of which nothing is known but its tensors."""
    if model.config.family is None:
        name = model.config.model_type
        fault = "does not fit the file's metadata or tensors" if is_known(name) else "is not known"
        yield Found(message=f"model_type {name} {fault}: shapes and names are not checked", value=name)


def integer_weights(model: Model) -> Iterator[Found]:
    """Matrices of integer codes, which are no weights by themselves."""
    keys = [
        key
        for key, tensor in model.tensors.items()
        if tensor.spec.mapped and tensor.spec.encoding.is_plain and tensor.encoding not in FLOAT_ENCODINGS
    ]
    if keys:
        tensor = model.tensors[keys[0]]
        yield Found(
            tensor=keys[0],
            message=f"{len(keys)} tensors hold integer codes ({tensor.encoding})",
            value=tensor.encoding,
            count=len(keys),
        )


def mixed_encodings(model: Model) -> Iterator[Found]:
    """Roles whose layers are stored in ways that no usual mixture explains."""
    for role, tensors in model.roles.items():
        if not model.is_checked(tensor.key for tensor in tensors):
            continue
        counts = Counter(tensor.encoding for tensor in tensors)
        if len(counts) > 1 and not _is_usual(tensors):
            parts = [f"{encoding} {count}" for encoding, count in counts.most_common()]
            rare = counts.most_common()[-1][0]
            first = next(tensor for tensor in tensors if tensor.encoding == rare)
            yield Found(
                tensor=first.key,
                message=f"{role} is stored in {len(counts)} ways: {', '.join(parts)}",
                value=first.encoding,
                count=len(counts),
            )


def _is_usual(tensors: list[Tensor]) -> bool:
    """Whether all are packed, as llama.cpp's mixtures are; plain only where blocks do not fit the rows."""
    return all(
        tensor.spec.encoding.dtype is None or (tensor.encoding == "F16" and tensor.shape[-1] % SUPER_BLOCK)
        for tensor in tensors
    )


def fallback_encodings(model: Model) -> Iterator[Found]:
    """Tensors of a K-quant model whose rows are no whole number of super-blocks."""
    packed = [t for t in model.tensors.values() if t.ndim > 1 and t.spec.encoding.dtype is None]
    if not any(t.spec.encoding.block_size == SUPER_BLOCK for t in packed):
        return
    odd = [t for t in model.tensors.values() if t.ndim > 1 and t.shape[-1] % SUPER_BLOCK and _is_weight(t)]
    if odd:
        counts = Counter(f"{t.encoding} {t.shape[-1]} wide" for t in odd)
        parts = [f"{count} {what}" for what, count in counts.most_common()]
        yield Found(
            tensor=odd[0].key,
            message=f"{len(odd)} tensors have rows of no whole super-blocks, and other types: "
            f"{listed(parts, len(parts))}",
            count=len(odd),
        )


def _is_weight(tensor: Tensor) -> bool:
    return "gate.weight" not in tensor.key and tensor.encoding not in {"F32", "F64"}


def transposed(model: Model) -> Iterator[Found]:
    """Matrices that lie the other way than those of the other layers."""
    for role, tensors in model.roles.items():
        shapes = Counter(tensor.shape for tensor in tensors)
        usual, count = shapes.most_common(1)[0]
        turned = (*usual[:-2], usual[-1], usual[-2])
        if turned == usual or 2 * count <= len(tensors):
            continue
        for tensor in tensors:
            if tensor.shape == turned and tensor.key in model.tensors:
                yield Found(
                    tensor=tensor.key,
                    message=f"the shape is {'x'.join(map(str, turned))}, where {count} others of {role} are "
                    f"{'x'.join(map(str, usual))}",
                )


RULES: Final = (
    Rule(
        id="WV701",
        name="unmapped-tensors",
        severity="info",
        title="Tensors that no rule maps",
        help="They are kept under their own names, and are no part of the forward pass: a vision "
        "tower, buffers, an adapter. Scales among them are WV205's.",
        find=unmapped,
        reads_weights=False,
    ),
    Rule(
        id="WV702",
        name="unknown-family",
        severity="info",
        title="The model's family is not known",
        help="Tensors keep their own names. Of a model_type that is known, the file lacks the token "
        "embedding (an adapter, a projector), or its metadata are those of something else that shares the "
        "name. Values are checked; names, shapes and the vocabulary are not.",
        find=unknown_family,
        reads_weights=False,
    ),
    Rule(
        id="WV703",
        name="integer-weights",
        severity="warning",
        title="Weights that are integer codes",
        help="The scales that make weights of them are elsewhere, in a form that wvindex does not know "
        "(GPTQ, AWQ, bitsandbytes): neither statistics nor a forward pass mean anything. Convert "
        "the unquantized model.",
        find=integer_weights,
        reads_weights=False,
    ),
    Rule(
        id="WV704",
        name="mixed-encodings",
        severity="info",
        title="One role is stored in several ways",
        help="Mixtures of packed types are normal and not meant: Q4_K_M stores half of the attn_v and "
        "ffn_down tensors as Q6_K, other K and IQ mixtures likewise. Meant are roles with several "
        "plain types, or plain and packed ones. Leaving the first and last layers in BF16 is "
        "common with FP8.",
        find=mixed_encodings,
        reads_weights=False,
    ),
    Rule(
        id="WV705",
        name="fallback-encodings",
        severity="info",
        title="Rows that are no whole number of super-blocks",
        help="K and IQ types pack 256 values; llama.cpp stores other rows as Q5_0, Q8_0, IQ4_NL or "
        "F16, which take more bits than the model's name says.",
        find=fallback_encodings,
        reads_weights=False,
    ),
    Rule(
        id="WV706",
        name="transposed-tensor",
        severity="warning",
        title="A matrix that lies the other way than in other layers",
        help="Its shape is that of most layers, reversed: [in, out] instead of [out, in]. Of known "
        "families such a file is refused when it is opened.",
        find=transposed,
        reads_weights=False,
    ),
)
