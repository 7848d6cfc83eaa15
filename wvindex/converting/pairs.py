"""Which tensors of a checkpoint are down-projections of latent attention: found by segments of their names.

``fused_qkv_a_proj_with_mqa`` contains ``kv_a_proj_with_mqa``, and ``q_a_proj`` is in many names; a segment
between dots is the whole name of a module, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wvindex.arch.keys import FUSED_LATENT_NAMES, LATENT_DOWN
from wvindex.converting.plan import Direction
from wvindex.errors import DuplicateName, MetadataError, UnsupportedError
from wvindex.sources.base import TensorInfo
from wvindex.transform.latent_widths import Norm, Norms

QUERY, BELOW = (module.rpartition(".")[2] for module in LATENT_DOWN)
"""Names of the two modules: ``q_a_proj``, ``kv_a_proj_with_mqa``."""

FUSED: Final = tuple(module.rpartition(".")[2] for module in FUSED_LATENT_NAMES)
"""Names that the fused module goes by; the first is what is written."""

_NORMS: Final = ("q_a_layernorm", "kv_a_layernorm")
_DOWN: Final = frozenset({QUERY, BELOW, *FUSED})
_BEHIND: Final = frozenset({*_NORMS, "q_b_proj", "kv_b_proj"})
"""Modules that take what a down-projection gives."""

Leaves = Mapping[str, TensorInfo]
"""Tensors of a module by what follows it in their names: ``weight``, ``bias``, ``weight_scale_inv``."""


@dataclass(frozen=True)
class Attention:
    """The down-projections of one attention.

    Attributes
    ----------
    parent : str
        Name of the module that they are in.
    query, below, fused : mapping of str to TensorInfo
        Tensors of each, by leaf; empty where the module is not there.
    fused_name : str
        What the fused module is called, with its parent: as found, or as it is written.
    norms : (Norm or None, Norm or None)
        Behind each half.
    """

    parent: str
    query: Leaves
    below: Leaves
    fused: Leaves
    fused_name: str
    norms: Norms = (None, None)

    @property
    def query_name(self) -> str:
        """The query's down-projection."""
        return _joined(self.parent, QUERY)

    @property
    def below_name(self) -> str:
        """That of keys and values, whose rows stand below."""
        return _joined(self.parent, BELOW)


def _joined(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def attentions(tensors: Iterable[TensorInfo]) -> list[Attention]:
    """Find every attention that has a down-projection, fused or not, in the order of the tensors.

    Raises
    ------
    DuplicateName
        If one has it under both fused names.
    """
    return [
        _attention(parent, modules)
        for parent, modules in _modules(tensors).items()
        if not modules.keys().isdisjoint(_DOWN)
    ]


def require_every(tensors: Iterable[TensorInfo]) -> None:
    """Refuse an attention with norms or up-projections of low rank, and without down-projections.

    Raises
    ------
    MetadataError
        Naming what is there, and what is missing.
    """
    for parent, modules in _modules(tensors).items():
        if modules.keys().isdisjoint(_DOWN):
            info = next(iter(next(iter(modules.values())).values()))
            raise MetadataError(
                "both down-projections of an attention are missing",
                file=info.file,
                tensor=info.name,
                expected=" and ".join(_joined(parent, name) for name in (QUERY, BELOW)) + f", or {FUSED[0]}",
                found="neither",
            )


def _modules(tensors: Iterable[TensorInfo]) -> dict[str, dict[str, dict[str, TensorInfo]]]:
    """Give the tensors of an attention's low-rank modules, by its name, the module's and their leaf's."""
    found: dict[str, dict[str, dict[str, TensorInfo]]] = {}
    for info in tensors:
        parts = info.name.split(".")
        for place, segment in enumerate(parts[:-1]):
            if segment in _DOWN or segment in _BEHIND:
                modules = found.setdefault(".".join(parts[:place]), {})
                modules.setdefault(segment, {})[".".join(parts[place + 1 :])] = info
                break
    return found


def _attention(parent: str, modules: Mapping[str, Leaves]) -> Attention:
    fused = [name for name in FUSED if name in modules]
    if len(fused) > 1:
        _, second = (next(iter(modules[name].values())) for name in fused)
        raise DuplicateName(
            "one attention has two fused down-projections",
            file=second.file,
            tensor=second.name,
            expected=_joined(parent, fused[0]),
            found=_joined(parent, fused[1]),
        )
    name = fused[0] if fused else FUSED[0]
    return Attention(
        parent=parent,
        query=modules.get(QUERY, {}),
        below=modules.get(BELOW, {}),
        fused=modules.get(name, {}),
        fused_name=_joined(parent, name),
        norms=(_norm(modules, _NORMS[0]), _norm(modules, _NORMS[1])),
    )


def _norm(modules: Mapping[str, Leaves], name: str) -> Norm | None:
    info = modules.get(name, {}).get("weight")
    return Norm(info.name, info.shape[0]) if info is not None and len(info.shape) == 1 else None


def require_form(found: Iterable[Attention], direction: Direction, file: Path) -> list[Attention]:
    """Give the attentions of `file`, each of which is of the form that the direction begins with.

    Raises
    ------
    UnsupportedError
        If there is none, or all are of the other form already.
    DuplicateName
        If some are fused and some are not, or one is both.
    MetadataError
        If one of two halves is missing, or one of their tensors.
    """
    chosen = list(found)
    fused = [one for one in chosen if one.fused]
    apart = [one for one in chosen if one.query or one.below]
    if fused and apart:
        info = next(iter((apart[0].query or apart[0].below).values()))
        raise DuplicateName(
            "down-projections stand here fused and unfused",
            file=info.file,
            tensor=info.name,
            expected=f"all as {fused[0].fused_name}, or none",
            found=info.name,
        )
    if direction == "unfuse":
        if not fused:
            raise UnsupportedError(
                "there is no fused down-projection here",
                file=file,
                expected=f"a tensor of {' or '.join(FUSED)}",
                found=apart[0].query_name if apart else "nothing of latent attention",
            )
        return fused
    if not apart:
        raise UnsupportedError(
            "there are no down-projections here to fuse",
            file=file,
            expected=f"tensors of {QUERY} and {BELOW}",
            found=f"{fused[0].fused_name}, which is fused" if fused else "nothing of latent attention",
        )
    for one in apart:
        _require_both(one)
    return apart


def _require_both(one: Attention) -> None:
    """Refuse an attention with one half, or with a tensor that the other half lacks."""
    for name, here, there in ((QUERY, one.query, one.below), (BELOW, one.below, one.query)):
        missing = sorted(there.keys() - here.keys())
        if missing:
            info = there[missing[0]]
            raise MetadataError(
                "one half of a down-projection is missing",
                file=info.file,
                tensor=info.name,
                expected=_joined(one.parent, f"{name}.{missing[0]}"),
                found="nothing",
            )
