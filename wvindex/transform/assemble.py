"""One standard array from the source tensors that hold its rows: copied, moved, stacked, cut or cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import EXPERT_MODULES, gguf_name, split_layer
from wvindex.errors import DuplicateName, MetadataError, UndecodableType
from wvindex.formats.arrays import ArraySpec, Exactness, Heads
from wvindex.formats.encodings import BF16, F16, F32, FLOAT_ENCODINGS, Encoding
from wvindex.formats.ggml import can_decode
from wvindex.sources.base import Rendering, Source, TensorInfo
from wvindex.transform.combine import Cast, Concat, tensor_rows
from wvindex.transform.pieces import Contribution, Pieces, contribution_rows
from wvindex.transform.rope import unpermuted_heads
from wvindex.transform.rows import Rows
from wvindex.transform.stacks import stack

_QUERY_HEADS: Final = {"self_attn.q_proj": 0, "self_attn.o_proj": 1, "self_attn.q_b_proj": 0}
_KEY_HEADS: Final = {"self_attn.k_proj": 0, "self_attn.v_proj": 0, "self_attn.kv_b_proj": 0}


@dataclass
class Target:
    """What goes into one array.

    `made` replaces the contributions' own rows where they are worked out elsewhere.
    """

    contributions: list[Contribution] = field(default_factory=list)
    mapped: bool = True
    made: tuple[Rows, tuple[int, ...], Exactness, str] | None = None


def assemble(
    source: Source,
    key: str,
    target: Target,
    config: ModelConfig,
    family: Family | None,
    storage: Encoding | None,
) -> tuple[ArraySpec, Rows]:
    """Give an array's spec and its rows.

    Parameters
    ----------
    source : Source
    key : str
    target : Target
    config : ModelConfig
    family : Family or None
    storage : Encoding or None
        Plain encoding for weights; None keeps the source's.

    Raises
    ------
    DuplicateName
        If two tensors claim the same rows.
    MetadataError
        If experts are missing, or differ in shape.
    UndecodableType
        If a cast is asked of an encoding that nobody decodes.
    """
    _, role = split_layer(key)
    module = role.rpartition(".")[0]
    target = replace(target, contributions=sorted(target.contributions, key=_expert))
    if target.made is not None:
        rows, shape, exactness, transform = target.made
        pieces = Pieces([rows], shape, (transform,))
    else:
        pieces = _gather(source, key, target, config)
        infos = [contribution.info for contribution in target.contributions]
        shown = [info.rendering for info in infos if info.rendering is not None]
        if shown:
            pieces = replace(pieces, transforms=(*_rendered(shown), *pieces.transforms))
        exactness = "reordered" if pieces.transforms else "bit"
        if not all(rendering.is_exact for rendering in shown):
            exactness = "derived"
        if not {encoding.name for encoding in pieces.encodings} <= {info.encoding.name for info in infos}:
            exactness = "cast"  # FP8 rows that end within a scale block
    subtract = next((c.placement.subtract for c in target.contributions if c.placement), 0.0)
    rows, transforms, exactness = _cast(pieces, storage, subtract, exactness, target.contributions[0].info)
    layer, _ = split_layer(key)
    names = tuple(dict.fromkeys(map(attrgetter("info.name"), target.contributions)))
    spec = ArraySpec(
        key=key,
        shape=pieces.shape,
        encoding=rows.encoding,
        exactness=exactness,
        sources=names,
        transforms=transforms,
        aliases=aliases(key, names, family, whole=_is_whole(target)),
        part_aliases=names if pieces.stacked and len(names) == len(pieces.rows) > 1 else (),
        heads=heads(module, pieces.shape, config),
        mapped=target.mapped,
        mtp=is_mtp(layer, config),
    )
    return spec, rows


def _rendered(shown: Sequence[Rendering]) -> tuple[str, ...]:
    """Give what a source did to tensors to show them in Hugging Face's form."""
    return tuple(dict.fromkeys(name for one in shown for name in one.transforms))


def _expert(contribution: Contribution) -> int:
    """Order by which experts' parts stand in a stack, whatever order the file has."""
    placement = contribution.placement
    return (placement and placement.expert) or 0


def aliases(key: str, names: Sequence[str], family: Family | None, *, whole: bool) -> tuple[str, ...]:
    """Give the other names of an array: GGUF's, and its source's where one tensor is the whole of it."""
    gguf = gguf_name(key, family.gguf_arch) if family else None
    found = [gguf] if gguf else []
    if whole and len(names) == 1:
        found.append(names[0])
    return tuple(name for name in dict.fromkeys(found) if name != key)


def heads(module: str, shape: tuple[int, ...], config: ModelConfig) -> Heads | None:
    """Tell how an array divides into heads; None where it does not."""
    for table, count in (
        (_QUERY_HEADS, config.num_attention_heads),
        (_KEY_HEADS, config.num_key_value_heads),
    ):
        axis = table.get(module)
        if axis is None or not count or axis >= len(shape) or len(shape) > 2 or shape[axis] % count:
            continue
        return Heads(axis=axis, count=count)
    return None


def is_mtp(layer: int | None, config: ModelConfig) -> bool:
    """Whether a layer is beyond those of the forward pass."""
    layers = config.num_hidden_layers
    return config.family is not None and layer is not None and layers is not None and layer >= layers


def _is_whole(target: Target) -> bool:
    """Whether one tensor is the array, neither a part of it nor more."""
    return target.made is None and all(
        c.placement is None or (c.placement.rows is None and c.placement.expert is None)
        for c in target.contributions
    )


def _gather(source: Source, key: str, target: Target, config: ModelConfig) -> Pieces:
    if split_layer(key)[1].rpartition(".")[0] in EXPERT_MODULES and target.mapped:
        return stack(source, key, target.contributions, config)
    if len(target.contributions) > 1:
        first, second = target.contributions[:2]
        raise DuplicateName(
            f"two tensors claim {key}",
            file=second.info.file,
            tensor=second.info.name,
            expected=f"{first.info.name} alone",
            found=second.info.name,
        )
    return _single(source, target.contributions[0])


def _single(source: Source, contribution: Contribution) -> Pieces:
    info, placement = contribution.info, contribution.placement
    part = placement.rows if placement else None
    shape = info.shape
    if part is not None:
        axis = len(shape) - 2 if len(shape) > 1 else 0
        shape = (*shape[:axis], part[1] - part[0], *shape[axis + 1 :])
    transforms = ["split"] if part is not None else []
    order = None
    if placement is not None and placement.permuted_heads:
        order = unpermuted_heads(_checked_rows(info, placement.permuted_heads), placement.permuted_heads)
        transforms.append("permute")
    rows = contribution_rows(source, contribution, part=part)
    if order is not None:
        rows = tensor_rows(source, info, order=order)
    return Pieces([rows], shape, tuple(transforms))


def _checked_rows(info: TensorInfo, n_heads: int) -> int:
    rows = info.shape[0] if info.shape else 1
    if len(info.shape) > 2 or rows % (2 * n_heads):
        raise MetadataError(
            "rows do not divide into heads of an even width",
            file=info.file,
            tensor=info.name,
            expected=f"a multiple of {2 * n_heads}",
            found=rows,
        )
    return rows


def _cast(
    pieces: Pieces, storage: Encoding | None, subtract: float, exactness: Exactness, info: TensorInfo
) -> tuple[Rows, tuple[str, ...], Exactness]:
    """Bring all pieces to one encoding, and that to the one asked for."""
    wanted = _wanted(pieces, storage, subtract)
    transforms, parts = pieces.transforms, pieces.rows
    if wanted is not None:
        for rows in parts:
            check_decodable(rows.encoding, info)
        parts = [Cast(rows, wanted, subtract) for rows in parts]
        transforms += ("subtract_one",) if subtract else ("cast",)
        exactness = "derived" if subtract or exactness == "derived" else "cast"
    rows = parts[0] if len(parts) == 1 else Concat(parts, stacked=pieces.stacked)
    return rows, transforms, exactness


def _wanted(pieces: Pieces, storage: Encoding | None, subtract: float) -> Encoding | None:
    encodings = pieces.encodings
    wanted = storage_for(encodings, len(pieces.shape), storage)
    if not subtract or wanted is not None:
        return wanted
    (common,) = encodings
    return common if common in (F32, F16, BF16) else F32


def storage_for(encodings: set[Encoding], ndim: int, storage: Encoding | None) -> Encoding | None:
    """Give the encoding that an array must be cast to; None where it is stored as it comes.

    Rows of one array must have one encoding. Integers are never cast, and vectors are never narrowed.
    """
    common = next(iter(encodings)) if len(encodings) == 1 else None
    if common is None:
        return storage if storage is not None and ndim > 1 else F32
    is_number = not common.is_plain or common.name in FLOAT_ENCODINGS
    if storage is None or storage == common or not is_number or (ndim < 2 and storage != F32):
        return None
    return storage


def check_decodable(encoding: Encoding, info: TensorInfo) -> None:
    """Raise where a cast or a product is asked of an encoding that can only be kept.

    Raises
    ------
    UndecodableType
    """
    if not encoding.is_plain and encoding.scale_block is None and not can_decode(encoding):
        raise UndecodableType(
            "this type cannot be decoded, only kept as it is",
            file=info.file,
            tensor=info.name,
            found=encoding.name,
        )
