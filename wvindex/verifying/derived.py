"""What a catalog says beside the bytes, beside what the source's headers say: the model and each array.

The configuration is worked out by `wvindex.arch.registry.identify`, and tensors are placed by
`wvindex.arch.naming.place`: both are what a build uses too, so a formula that is wrong there is not found
here; a catalog that was edited is. Sources of arrays, row scales, heads and names are worked out below, and
share no code with the build.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

from wvindex.arch.config import MLA, ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import EXPERT_MODULES, gguf_name, layer_key, split_layer
from wvindex.arch.mxfp4 import packed_pairs
from wvindex.arch.naming import Placement, is_part_of_a_weight, place
from wvindex.arch.registry import identify
from wvindex.errors import WvindexError
from wvindex.formats.arrays import ArraySpec, Heads, RowScale
from wvindex.formats.encodings import FLOAT_ENCODINGS
from wvindex.sources.base import Source, TensorInfo
from wvindex.store.catalog import Catalog
from wvindex.store.metadata import CATALOG_JSON
from wvindex.verifying.experts import DEINTERLEAVED, JOINED_MXFP4, LAID_OUT, TRANSPOSED
from wvindex.verifying.formulas import ABSORBED, JOINED
from wvindex.verifying.report import Findings
from wvindex.verifying.source_rows import FP8Scales

_FUSED: Final = "fuse_qkv_a"
_MEANT: Final = LAID_OUT | {ABSORBED, JOINED, _FUSED, "rope_first", "join_latent", "permute", "subtract_one"}
"""Transforms that change what an array means; of others the shapes and values tell."""

_ATTENTION: Final = "self_attn"
_FACTORS: Final = frozenset(
    f"{_ATTENTION}.{name}"
    for name in (
        *("q_a_proj", "q_b_proj", "q_a_layernorm", "q_proj"),
        *("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "k_b_proj", "v_b_proj"),
    )
)
_DOWN: Final = ("q_a_proj", "kv_a_proj_with_mqa")
"""Of latent attention, in the order of their rows where they are fused."""

_KEYS: Final = frozenset(f"{_ATTENTION}.{name}" for name in ("k_proj", "v_proj", "kv_b_proj"))
_QUERIES: Final = frozenset(f"{_ATTENTION}.{name}" for name in ("q_proj", "q_b_proj", "o_proj"))


@dataclass(frozen=True)
class _Part:
    """A tensor of the source that an array is made of; no placement where it keeps its own name."""

    info: TensorInfo
    placement: Placement | None


@dataclass(frozen=True)
class _Origin:
    """Which tensors an array should be made of, in order, and by which of the `_MEANT` transforms."""

    sources: tuple[str, ...]
    transforms: frozenset[str] = frozenset()
    whole: bool = False
    parts: tuple[_Part, ...] = ()


def check_derived(source: Source, catalog: Catalog, findings: Findings) -> ModelConfig:
    """Compare the catalog's configuration and arrays with what the source's headers say.

    Returns
    -------
    ModelConfig
        As the source has it; the catalog's where that cannot be worked out.
    """
    try:
        family, config = identify(source)
    except WvindexError as error:
        findings.skip("config", CATALOG_JSON, f"the source's cannot be worked out: {error.message}")
        for key in catalog.arrays:
            findings.skip("catalog", key, "the source's configuration cannot be worked out")
        return catalog.config
    derived = _Derived(source, family, config, catalog, findings)
    derived.check_config()
    derived.check_arrays()
    findings.skip("catalog", CATALOG_JSON, "its options, and exactness below bit, follow from no source")
    return config


class _Derived:
    """The arrays that a source's tensors should have become."""

    def __init__(
        self, source: Source, family: Family | None, config: ModelConfig, catalog: Catalog, findings: Findings
    ) -> None:
        self._family, self._config, self._format = family, config, source.format
        self._catalog, self._findings = catalog, findings
        self._parts: dict[str, list[_Part]] = {}
        self._unplaced: set[str] = set()
        self._packed: set[str] = set()
        reasons = {line.tensor: line.reason for line in catalog.ledger}
        pairs, unpaired = packed_pairs(source, family)
        self._packed.update(pairs)
        exponents = {pair.exponents.name for pair in pairs.values()}
        tensors = {info.name: info for info in source.tensors()}
        self._told = set(tensors).symmetric_difference(reasons)  # the ledger's own faults
        for info in tensors.values():
            reason = reasons.get(info.name)
            if info.aside == reason is not None:
                continue
            if reason == "scales" and (info.name in exponents or _is_scale(info.name, tensors)):
                continue
            if info.name in unpaired:
                self._unplaced.add(info.name)
            found = self._place(pairs[info.name].weight if info.name in pairs else info)
            if (reason == "config.rope") != (found == "config"):
                findings.fault("ledger", found, reason, tensor=info.name, path=CATALOG_JSON)
        self._attention = {
            layer
            for key in self._parts
            for layer, role in (split_layer(key),)
            if config.mla is not None and layer is not None and role.rpartition(".")[0] in _FACTORS
        }

    def _place(self, info: TensorInfo) -> str:
        """Note where a tensor belongs; tell whether in an array or in the configuration."""
        try:
            placed = place(info, self._family, self._config, self._format)
        except WvindexError as error:
            self._findings.skip("catalog", info.name, f"its place cannot be worked out: {error.message}")
            self._unplaced.add(info.name)
            return "array"
        if placed.use == "unmapped":
            self._parts.setdefault(info.name, []).append(_Part(info, None))
        for placement in placed.placements:
            self._parts.setdefault(placement.key, []).append(_Part(info, placement))
        return "config" if placed.use == "config" else "array"

    def check_config(self) -> None:
        """Compare the configuration field by field; reasons not to run by their number beyond its own."""
        config, found = self._config, self._catalog.config
        if any(self._is_dense(layer) for layer in self._attention):
            config = replace(config, attention_form="dense")
        own = len(config.refuses_to_run)
        if len(found.refuses_to_run) == own + self._unapplied():
            config = replace(config, refuses_to_run=(*config.refuses_to_run, *found.refuses_to_run[own:]))
        wanted, got = _plain(asdict(config)), _plain(asdict(found))
        for name in sorted(wanted):
            if _text(wanted[name]) != _text(got[name]):
                self._fault(None, f"config.{name}", wanted[name], got[name])

    def _unapplied(self) -> int:
        """Count the kinds of weights that are not the model's as they are stored."""
        if self._family is None:
            return 0
        parts = [part for parts in self._parts.values() for part in parts]
        codes = any(
            part.placement is not None
            and part.info.encoding.is_plain
            and part.info.encoding.name not in FLOAT_ENCODINGS
            for part in parts
        )
        apart = any(
            part.placement is None and is_part_of_a_weight(part.info, self._family, self._format)
            for part in parts
        )
        return codes + apart

    def check_arrays(self) -> None:
        """Compare every array's entry, and see that no tensor is left out."""
        used = {name for entry in self._catalog.arrays.values() for name in entry.spec.sources}
        for key, parts in self._parts.items():
            layer, role = split_layer(key)
            is_factor = layer in self._attention and role.rpartition(".")[0] in _FACTORS
            known = [part for part in parts if part.info.name not in self._told]
            if known and key not in self._catalog.arrays and not is_factor:
                self._fault(key, "arrays", key, "nothing")
            for part in known:
                if part.info.name not in used:
                    self._fault(key, "sources", part.info.name, "in no array")
        for key, entry in self._catalog.arrays.items():
            if not self._told.isdisjoint(entry.spec.sources):
                continue
            if self._unplaced.intersection(entry.spec.sources):
                self._findings.skip("catalog", key, "the place of its sources cannot be worked out")
                continue
            origin = self._origin(key)
            if origin is None:
                self._fault(key, "arrays", "nothing", f"{key}, which no tensor belongs to")
            else:
                self._check(entry.spec, origin)

    def _check(self, spec: ArraySpec, origin: _Origin) -> None:
        layer, role = split_layer(spec.key)
        layers = self._config.num_hidden_layers
        is_mtp = self._family is not None and None not in (layer, layers) and (layer or 0) >= (layers or 0)
        wanted: dict[str, Any] = {
            "sources": origin.sources,
            "transforms": sorted(origin.transforms),
            "aliases": self._aliases(spec.key, origin),
            "part_aliases": _part_aliases(spec, role, origin),
            "heads": _heads(spec, role, origin, self._config),
            "row_scale": _row_scale(layer, role, self._config.mla) if ABSORBED in origin.transforms else None,
            "mapped": not (len(origin.parts) > 0 and origin.parts[0].placement is None),
            "mtp": is_mtp,
            "widths": self._widths(role),
            "parts": self._fused_parts(layer, role),
        }
        for name, value in wanted.items():
            got = getattr(spec, name)
            if name == "transforms":
                got = sorted(_MEANT.intersection(got))
            elif name == "parts":
                got = [(part.key, part.rows, part.sources, part.aliases) for part in got]
            if value != got:
                self._fault(spec.key, name, _plain(value), _plain(got))

    def _aliases(self, key: str, origin: _Origin) -> tuple[str, ...]:
        gguf = gguf_name(key, self._family.gguf_arch) if self._family else None
        found = [gguf] if gguf else []
        if origin.whole and len(origin.sources) == 1:
            found += origin.sources
        return tuple(name for name in dict.fromkeys(found) if name != key)

    def _widths(self, role: str) -> tuple[int, ...]:
        """Give how the rows of fused down-projections divide: queries, keys and values, rotary keys."""
        mla = self._config.mla
        if mla is None or not role.startswith(f"{_ATTENTION}.fused_qkv_a_proj."):
            return ()
        return mla.q_lora_rank or 0, mla.kv_lora_rank, mla.qk_rope_head_dim

    def _fused_parts(self, layer: int | None, role: str) -> list[tuple[Any, ...]]:
        """Give key, rows, sources and aliases of what was fused."""
        widths = self._widths(role)
        if not widths or layer is None:
            return []
        ends, found = (0, widths[0], sum(widths)), []
        for module, rows in zip(_DOWN, pairwise(ends), strict=True):
            key = layer_key(layer, f"{_ATTENTION}.{module}.{role.rpartition('.')[2]}")
            origin = self._origin(key)
            if origin is not None:
                found.append((key, rows, origin.sources, self._aliases(key, origin)))
        return found

    def _is_dense(self, layer: int) -> bool:
        """Whether a layer is stored with Q, K and V worked out."""
        return layer_key(layer, f"{_ATTENTION}.k_proj.weight") in self._catalog.arrays

    def _origin(self, key: str) -> _Origin | None:
        """Give what an array should be made of; None where no tensor belongs to it."""
        layer, role = split_layer(key)
        if layer in self._attention and layer is not None:
            found = self._latent(layer, role)
            if found is not None:
                return found
        parts = tuple(sorted(self._parts.get(key, ()), key=_expert))
        if not parts:
            return None
        placements = [part.placement for part in parts if part.placement is not None]
        transforms = {"permute" for one in placements if one.permuted_heads}
        transforms |= {"subtract_one" for one in placements if one.subtract}
        transforms |= {DEINTERLEAVED for one in placements if one.step > 1}
        transforms |= {TRANSPOSED for one in placements if one.transposed}
        transforms |= {JOINED_MXFP4 for part in parts if part.info.name in self._packed}
        whole = all(one.rows is None and one.expert is None for one in placements)
        names = tuple(dict.fromkeys(part.info.name for part in parts))
        return _Origin(names, frozenset(transforms), whole, parts)

    def _latent(self, layer: int, role: str) -> _Origin | None:
        """Give what an array of latent attention is made of, where it is not one factor as it came."""
        module, _, kind = role.rpartition(".")
        name = module.removeprefix(f"{_ATTENTION}.")
        has_rank = self._config.mla is not None and self._config.mla.q_lora_rank is not None
        split = layer_key(layer, f"{_ATTENTION}.k_b_proj.weight") in self._parts
        ups = ("k_b_proj", "v_b_proj") if split else ("kv_b_proj", "kv_b_proj")
        latent, norms = ("kv_a_proj_with_mqa", "kv_a_layernorm"), ("q_a_proj", "q_a_layernorm")
        made: Mapping[str, Sequence[str]] = {
            "k_proj": (*latent, ups[0]),
            "v_proj": (*latent, ups[1]),
            **({"q_proj": (*norms, "q_b_proj")} if has_rank else {}),
        }
        if name in made:
            roles = [f"{one}.weight" for one in made[name]]
            roles += [f"{made[name][0]}.bias"] if kind == "bias" else []
            return _Origin(tuple(self._names(layer, roles)), frozenset({ABSORBED}))
        if name == "q_proj" and self._is_dense(layer):
            return _Origin(tuple(self._names(layer, [f"q_proj.{kind}"])), frozenset({"rope_first"}))
        if name == "latent_proj":
            roles = [f"q_a_proj.{kind}"] if has_rank else []
            roles.append(f"{latent[0]}.{kind}")
            return _Origin(tuple(self._names(layer, roles)), frozenset({"join_latent"}))
        if name == "fused_qkv_a_proj" and has_rank:
            names = tuple(self._names(layer, [f"{down}.{kind}" for down in _DOWN]))
            whole = len(names) == 1  # as it stands in the source
            return _Origin(names, frozenset() if whole else frozenset({_FUSED}), whole) if names else None
        if name == "kv_b_proj" and split and layer_key(layer, role) not in self._parts:
            return _Origin(tuple(self._names(layer, [f"{up}.{kind}" for up in ups])), frozenset({JOINED}))
        return None

    def _names(self, layer: int, roles: Sequence[str]) -> Iterator[str]:
        """Give the tensors of some roles; one that is several of them, once."""
        keys = (layer_key(layer, f"{_ATTENTION}.{role}") for role in roles)
        return iter(dict.fromkeys(part.info.name for key in keys for part in self._parts.get(key, ())))

    def _fault(self, key: str | None, name: str, wanted: object, got: object) -> None:
        self._findings.fault(
            "source_catalog", f"{name}: {wanted}", f"{name}: {got}", tensor=key, path=CATALOG_JSON
        )


def _expert(part: _Part) -> int:
    return part.placement.expert or 0 if part.placement is not None else 0


def _is_scale(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    owner = tensors.get(name.removesuffix(FP8Scales.SUFFIX))
    return owner is not None and owner.name != name and owner.encoding.name.startswith("F8_")


def _part_aliases(spec: ArraySpec, role: str, origin: _Origin) -> tuple[str, ...]:
    """Give the names of experts that came one by one."""
    is_stack = role.rpartition(".")[0] in EXPERT_MODULES and bool(origin.parts) and spec.mapped
    return origin.sources if is_stack and len(origin.sources) > 1 and len(spec.shape) == 3 else ()


def _heads(spec: ArraySpec, role: str, origin: _Origin, config: ModelConfig) -> Heads | None:
    """Give how an array divides into heads: Q, K and V by rows, the output projection by columns."""
    module = role.rpartition(".")[0]
    is_dense = bool(origin.transforms & {ABSORBED, "rope_first"})
    of_keys = module in _KEYS and not is_dense
    count = config.num_key_value_heads if of_keys else config.num_attention_heads
    axis = 1 if module == f"{_ATTENTION}.o_proj" else 0
    if module not in _KEYS | _QUERIES or not count or not axis < len(spec.shape) <= 2:
        return None
    return Heads(axis=axis, count=count) if spec.shape[axis] % count == 0 else None


def _row_scale(layer: int | None, role: str, mla: MLA | None) -> RowScale | None:
    """Give the norm between the factors: over W_qa's rows for Q, over W_ca's for V and K's nope part."""
    if mla is None or layer is None or not role.endswith(".weight"):
        return None
    n_q, rope, nope = mla.q_lora_rank or 0, mla.qk_rope_head_dim, mla.qk_nope_head_dim
    slices = {"q": (0, rope + nope), "k": (rope, rope + nope), "v": (0, mla.v_head_dim)}
    letter = role.removeprefix(f"{_ATTENTION}.")[0]
    rows = (0, n_q) if letter == "q" else (n_q, n_q + mla.kv_lora_rank)
    weight = layer_key(layer, f"{_ATTENTION}.latent_proj.weight")
    return RowScale(weight=weight, rows=rows, eps=mla.norm_eps, head_slice=slices[letter])


def _plain(value: Any) -> Any:
    """Give JSON values: what a catalog has once it was written."""
    return json.loads(json.dumps(asdict(value) if isinstance(value, Heads | RowScale) else value))


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
