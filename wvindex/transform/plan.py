"""The plan: from a checkpoint's headers to the arrays of a store, and where every tensor goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Literal

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import layer_key, split_layer
from wvindex.arch.mxfp4 import packed_pairs
from wvindex.arch.naming import is_part_of_a_weight, place
from wvindex.arch.registry import identify
from wvindex.errors import DuplicateName, UsageError, WvindexError
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import BF16, ENCODINGS, F16, F32, FLOAT_ENCODINGS, Encoding
from wvindex.formats.ledger import IN_CONFIG, LedgerEntry
from wvindex.limits import PROCESS_BYTES
from wvindex.sizes import format_size
from wvindex.sources.base import Source
from wvindex.transform.accounts import Accounts
from wvindex.transform.assemble import Target, assemble
from wvindex.transform.claims import contradictions
from wvindex.transform.fuse import fused_layer, no_fused_form, require_divided
from wvindex.transform.mla_plan import FACTORS, MlaLayer, absorb_layer, stitched_layer, unabsorbed
from wvindex.transform.pieces import Contribution
from wvindex.transform.product import LatestFactor
from wvindex.transform.rows import Rows
from wvindex.transform.scales import attach_scales

MlaForm = Literal["absorb", "keep", "both"]

STORAGE: Final[Mapping[str, Encoding | None]] = {
    "keep": None,
    "float32": F32,
    "float16": F16,
    "bfloat16": BF16,
}
"""What ``dtype`` may be: the source's own encodings, or one for all."""

_CODES: Final = frozenset(name for name, one in ENCODINGS.items() if one.is_plain) - FLOAT_ENCODINGS
"""Encodings of integers: weights that have them are codes."""

FUSED_OPTION: Final = "fused_mla_lora_proj"
"""The option, as catalogs have it; not there where nothing was fused."""


@dataclass(frozen=True)
class Operation:
    """One array to write.

    Attributes
    ----------
    spec : ArraySpec
        What it is.
    rows : Rows
        Gives its encoded rows from the source.
    fixed_bytes : int
        Memory held while it is worked, besides the tile in hand: the right factor of a product.
    """

    spec: ArraySpec
    rows: Rows
    fixed_bytes: int = 0


@dataclass(frozen=True)
class Refusal:
    """What the store cannot represent as asked: a tensor, and the error that `build` would raise."""

    tensor: str
    error: WvindexError


@dataclass(frozen=True, repr=False)
class Plan:
    """What a build will do. ``str(plan)`` is the report.

    Attributes
    ----------
    config : ModelConfig
        As the store will have it: after absorption, a dense attention.
    family : Family or None
    operations : tuple of Operation
    accounts : Accounts
        What became of each source tensor.
    refusals : tuple of Refusal
        Empty where the build can be done.
    bytes_in, bytes_out : int
        Of weights: as the source has them, as the store will.
    options : mapping
        The build's options.
    notes : tuple of str
        What is odd about the source, though valid.
    source_bytes : int
        Memory that the source takes to read anything: chunks that are decoded whole.
    """

    config: ModelConfig
    family: Family | None
    operations: tuple[Operation, ...]
    accounts: Accounts
    refusals: tuple[Refusal, ...]
    bytes_in: int
    bytes_out: int
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source_bytes: int = 0

    @cached_property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """One entry a source tensor: where it goes. Written when it is first asked for."""
        return self.accounts.ledger()

    @property
    def peak_memory(self) -> int:
        """Bytes at the worst moment, at most: the process, the largest factor and the tiles beside it."""
        most = max((op.fixed_bytes + 4 * _tile_bytes(op) for op in self.operations), default=0)
        return PROCESS_BYTES + self.source_bytes + most

    def __repr__(self) -> str:
        """Give one line."""
        return (
            f"<Plan: {self.config.model_type}, {len(self.operations)} arrays, {format_size(self.bytes_out)}, "
            f"{len(self.refusals)} refusals>"
        )

    def __str__(self) -> str:
        """Tell what would be written, and what could not."""
        mapped = sum(op.spec.mapped for op in self.operations)
        lines = [
            f"family        {self.config.family or 'unknown'} ({self.config.model_type})",
            f"arrays        {len(self.operations)} ({len(self.operations) - mapped} under their own names)",
            f"from          {len(self.accounts.tensors)} tensors, {format_size(self.bytes_in)}",
            f"to            {format_size(self.bytes_out)}",
            f"peak memory   about {format_size(self.peak_memory)}",
        ]
        lines += [f"note          {note}" for note in self.notes]
        lines += [f"will not run  {reason}" for reason in self.config.refuses_to_run]
        lines += [f"refused       {refusal.tensor}: {refusal.error}" for refusal in self.refusals]
        return "\n".join(lines)


def _tile_bytes(operation: Operation) -> int:
    preferred = getattr(operation.rows, "preferred_tile_bytes", 4 << 20)
    return int(max(preferred, operation.spec.row_bytes))


def plan_source(
    source: Source,
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
    fused_mla_lora_proj: bool = False,
) -> Plan:
    """Plan a build of an open source; only headers (and rotary factors) are read.

    Parameters
    ----------
    source : Source
    mla : {"absorb", "keep", "both"}
        Dense Q, K and V, the low-rank factors, or both.
    dtype : {"keep", "float32", "float16", "bfloat16"}
        Storage of what is not absorbed. Vectors are never narrowed: norms, biases, router corrections.
    absorbed_dtype : {"float32", "float16", "bfloat16"}
    fused_mla_lora_proj : bool
        Keep both down-projections of latent attention as one matrix (see `wvindex.transform.fuse`).

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If an option has another value, or what is to be fused is not kept.
    MetadataError
        If the configuration lacks a field or contradicts itself.
    """
    _check_option("mla", mla, ("absorb", "keep", "both"))
    _check_option("dtype", dtype, tuple(STORAGE))
    _check_option("absorbed_dtype", absorbed_dtype, tuple(STORAGE)[1:])
    if fused_mla_lora_proj and mla == "absorb":
        raise UsageError(
            "the absorbed form keeps no down-projections to fuse: its latent_proj is one matrix already",
            field="fused_mla_lora_proj",
            expected="mla='keep' or 'both'",
            found="mla='absorb'",
        )
    family, config = identify(source)
    planner = _Planner(source, family, config, STORAGE[dtype], STORAGE[absorbed_dtype] or F32)
    options: dict[str, Any] = {"mla": mla, "dtype": dtype, "absorbed_dtype": absorbed_dtype}
    if fused_mla_lora_proj:
        options[FUSED_OPTION] = True
        planner.require_fused_form()
    return planner.plan(mla, options)


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} has no such value", expected=" or ".join(allowed), found=value)


class _Planner:
    """Collects operations, the ledger's entries and refusals while it walks the tensors."""

    def __init__(
        self,
        source: Source,
        family: Family | None,
        config: ModelConfig,
        storage: Encoding | None,
        absorbed: Encoding,
    ) -> None:
        self.source = source
        self.family = family
        self.config = config
        self.storage = storage
        self.absorbed = absorbed
        self.operations: list[Operation] = []
        self.keys: set[str] = set()
        self.refusals: list[Refusal] = []
        self.accounts = Accounts(source.tensors())
        self.latest = LatestFactor()
        self.fuses = False

    def require_fused_form(self) -> None:
        """Have down-projections fused, or refuse a model that has none."""
        refused = no_fused_form(self.config)
        self.fuses = refused is None
        if refused is not None:
            self.refusals.append(Refusal(FUSED_OPTION, refused))

    def plan(self, mla: str, options: Mapping[str, Any]) -> Plan:
        tensors = self.source.tensors()
        targets = self._targets()
        layers = self._mla_layers(targets)
        for key, target in targets.items():
            layer, role = split_layer(key)
            if layer not in layers or role.rpartition(".")[0] not in FACTORS:
                self._add(key, target)
        for layer, factors in layers.items():
            self._add_mla(layer, factors, mla)
        self._check_claims()
        config = replace(self.config, refuses_to_run=(*self.config.refuses_to_run, *self._unapplied(targets)))
        if layers and mla != "keep":
            config = replace(config, attention_form="dense")
        return Plan(
            config=config,
            family=self.family,
            operations=tuple(sorted(self.operations, key=lambda op: reading_order(op.spec.key))),
            accounts=self.accounts,
            refusals=tuple(self.refusals),
            bytes_in=sum(info.nbytes for info in tensors if info.aside is None),
            bytes_out=sum(op.spec.nbytes for op in self.operations),
            options=options,
            notes=self.source.notes,
            source_bytes=max((info.rendering.held_bytes for info in tensors if info.rendering), default=0),
        )

    def _targets(self) -> dict[str, Target]:
        """Group what the tensors hold by the array that it belongs to."""
        targets: dict[str, Target] = {}
        scaled, refused = attach_scales(self.source)
        pairs, unpaired = packed_pairs(self.source, self.family)
        for tensor, error in (*refused.items(), *unpaired.items()):
            self.refusals.append(Refusal(tensor, error))
        scales_of = {**scaled.scales_of, **{pair.exponents.name: name for name, pair in pairs.items()}}
        self.accounts.scales_of = scales_of
        source_format = self.source.format
        for found in self.source.tensors():
            name = found.name
            if found.aside is not None:
                self.accounts.reasons[name] = found.aside
                continue
            if name in scales_of:
                continue
            pair = pairs.get(name)
            info = found if pair is None else pair.weight
            try:
                placed = place(info, self.family, self.config, source_format)
            except WvindexError as error:
                self.refusals.append(Refusal(info.name, error))
                continue
            if placed.use == "config":
                self.accounts.reasons[info.name] = IN_CONFIG
            elif placed.use == "unmapped":
                target = targets.get(info.name) or targets.setdefault(info.name, Target(mapped=False))
                target.contributions.append(Contribution(info, None, scaled.of.get(info.name)))
            for placement in placed.placements:
                key = placement.key
                target = targets.get(key) or targets.setdefault(key, Target())
                exponents = None if pair is None else pair.exponents
                contribution = Contribution(info, placement, scaled.of.get(info.name), exponents)
                target.contributions.append(contribution)
        return targets

    def _unapplied(self, targets: Mapping[str, Target]) -> list[str]:
        """Tell why weights as they are stored are not the model's: codes, or weights with something apart."""
        if self.family is None:
            return []
        codes = [
            key
            for key, target in targets.items()
            if target.mapped and any(c.info.encoding.name in _CODES for c in target.contributions)
        ]
        foreign = [
            key
            for key, target in targets.items()
            if not target.mapped
            and is_part_of_a_weight(target.contributions[0].info, self.family, self.source.format)
        ]
        reasons = {
            "weights that are integer codes": codes,
            "tensors that belong to a weight and are not applied to it": foreign,
        }
        return [f"{len(keys)} {reason}, such as {keys[0]}" for reason, keys in reasons.items() if keys]

    def _check_claims(self) -> None:
        """Refuse what is not as the configuration of a known family says."""
        if self.family is not None:
            specs = [operation.spec for operation in self.operations]
            found = contradictions(self.source, specs, self.config)
            self.refusals += [Refusal(tensor, error) for tensor, error in found]

    def _mla_layers(self, targets: Mapping[str, Target]) -> dict[int, dict[str, Target]]:
        """Give the low-rank factors of each layer, by role."""
        layers: dict[int, dict[str, Target]] = defaultdict(dict)
        if self.config.mla is not None:
            for key, target in targets.items():
                layer, role = split_layer(key)
                if layer is not None and role.rpartition(".")[0] in FACTORS:
                    layers[layer][role] = target
        return layers

    def _add(self, key: str, target: Target) -> None:
        try:
            spec, rows = assemble(self.source, key, target, self.config, self.family, self.storage)
        except WvindexError as error:
            self.refusals.append(Refusal(target.contributions[0].info.name, error))
            return
        self._append(Operation(spec, rows), target.contributions)

    def _append(self, operation: Operation, contributions: Sequence[Contribution]) -> None:
        if operation.spec.key in self.keys:
            info = contributions[0].info
            error = DuplicateName(
                f"two arrays are named {operation.spec.key}", file=info.file, tensor=info.name
            )
            self.refusals.append(Refusal(info.name, error))
            return
        self.keys.add(operation.spec.key)
        self.operations.append(operation)
        self.accounts.hold(operation.spec.key, map(attrgetter("info.name"), contributions))

    def _add_mla(self, layer: int, factors: dict[str, Target], mla: str) -> None:
        context = MlaLayer(
            self.source, layer, factors, self.config, self.family, self.storage, self.absorbed, self.latest
        )
        try:
            require_divided(context)
            dense = list(absorb_layer(context)) if mla != "keep" else []
            kept = stitched_layer(context) if mla != "absorb" else unabsorbed(context, dense)
            fused = list(fused_layer(context, kept)) if self.fuses else []
            for spec, rows, fixed_bytes, used in (*dense, *fused):
                self._append(Operation(spec, rows, fixed_bytes), used)
            for key, target in kept.items():
                held = self.accounts.used.get(key, ())
                if not all(c.info.name in held for c in target.contributions):
                    self._add(key, target)  # a Q without factors is in the dense form alone
        except WvindexError as error:
            self.refusals.append(Refusal(layer_key(layer, "self_attn"), error))


def reading_order(key: str) -> tuple[int, int, str]:
    """Sort as a forward pass reads: the embedding, the layers by number, the rest."""
    layer, _ = split_layer(key)
    return (1, layer, key) if layer is not None else (0 if key.startswith("model.embed") else 2, 0, key)


def require_representable(plan: Plan) -> None:
    """Raise what a plan refuses, if anything.

    Raises
    ------
    WvindexError
        The first refusal's own error; its message counts the others.
    """
    if not plan.refusals:
        return
    error, others = copy(plan.refusals[0].error), len(plan.refusals) - 1
    if others:
        error.message += f" [and {others} more]"
    raise error
