"""JSON files of a Hugging Face checkpoint, rewritten so that they say what the tensors are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from wvindex.arch.fields import Fields
from wvindex.arch.hub_defaults import hub_defaults
from wvindex.converting.arrange import rearranged
from wvindex.converting.modules import ModuleNames
from wvindex.converting.plan import Direction, Edit
from wvindex.errors import MetadataError, UnsupportedError
from wvindex.sources.safetensors import SafetensorsSource

CONFIG: Final = "config.json"

QUANTIZATION_FILES: Final = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside config.json in which quantizers (ModelOpt, GPTQ, AWQ) name modules."""

FORM: Final = "fused_mla_lora_proj"
"""Member of config.json that says that the down-projections are fused; MaxText's name for it."""

MOVED: Final = "unfused_shards"
"""Member of the index's ``metadata``: files of halves that stood elsewhere than what they were fused to."""

_QUANTIZATION: Final = ("quantization_config", "compression_config")
_TEXT: Final = "text_config"


def widths_of(source: SafetensorsSource) -> tuple[int, int, int]:
    """Give q_lora_rank, kv_lora_rank and qk_rope_head_dim, as config.json has them.

    Raises
    ------
    UnsupportedError
        If the model has no latent attention, or its queries have no rank.
    MetadataError
        If there is no config.json, or a number in it is none.
    """
    config = source.config()
    if not config:
        raise MetadataError("there is no configuration", file=source.path, expected=CONFIG, found="nothing")
    fields = Fields(config, source.path / CONFIG)
    text = fields.child(_TEXT)
    fields = text or fields
    model_type = fields.text("model_type", fields.text("model_type", "unknown"))
    fields = fields.where_absent(hub_defaults(model_type, nested=text is not None))
    if "kv_lora_rank" not in fields:
        raise UnsupportedError(
            "only latent attention has down-projections to fuse",
            file=source.path / CONFIG,
            field="kv_lora_rank",
            expected="a rank",
            found=f"nothing, in {model_type}",
        )
    query = fields.integer_or_none("q_lora_rank")
    if not query:
        raise UnsupportedError(
            "this model's queries have no down-projection to fuse",
            file=source.path / CONFIG,
            field="q_lora_rank",
            expected="a rank",
            found="nothing" if query is None else query,
        )
    return query, fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim")


def rewritten_config(
    config: Mapping[str, Any], names: ModuleNames, direction: Direction
) -> tuple[dict[str, Any], list[Edit]]:
    """Give config.json after the conversion, and what was changed in it."""
    new = deepcopy(dict(config))
    edits = []
    inner = new[_TEXT] if isinstance(new.get(_TEXT), dict) else new
    place = f"{_TEXT}.{FORM}" if inner is not new else FORM
    if direction == "fuse":
        inner[FORM] = True
        edits.append(Edit(file=CONFIG, what=f"{place} is true"))
    elif inner.pop(FORM, None) is not None:
        edits.append(Edit(file=CONFIG, what=f"{place} is removed"))
    for holder, prefix in ((new, ""), *(((inner, f"{_TEXT}."),) if inner is not new else ())):
        for member in _QUANTIZATION:
            if member in holder:
                old, holder[member] = holder[member], names.rewritten(holder[member], f"{prefix}{member}")
                edits += _edits(CONFIG, f"{prefix}{member}", old, holder[member])
    return new, edits


def rewritten_quantization(
    name: str, document: Mapping[str, Any], names: ModuleNames
) -> tuple[dict[str, Any], list[Edit]]:
    """Give another file that names modules, and what was changed in it."""
    new = {member: names.rewritten(value, member) for member, value in document.items()}
    return new, [edit for member in new for edit in _edits(name, member, document[member], new[member])]


def _edits(file: str, where: str, old: Any, new: Any) -> list[Edit]:
    """Tell which lists and objects differ."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [edit for name in old for edit in _edits(file, f"{where}.{name}", old[name], new[name])]
    if isinstance(old, dict | list) and isinstance(new, dict | list):
        gone = [str(item) for item in old if item not in new]
        come = [str(item) for item in new if item not in old]
        return [
            Edit(file=file, what=f"{where}: {', '.join(gone) or 'nothing'} -> {', '.join(come) or 'nothing'}")
        ]
    return [Edit(file=file, what=f"{where}: {old} -> {new}")]


def rewritten_index(
    index: Mapping[str, Any],
    replaced: Mapping[str, Sequence[tuple[str, str]]],
    moved: Mapping[str, str],
    total_size: int,
    file: str,
) -> tuple[dict[str, Any], list[Edit]]:
    """Give the index after the conversion.

    Parameters
    ----------
    index : mapping
    replaced : mapping of str to sequence of (str, str)
        Names that are gone, with the names and files that stand for each.
    moved : mapping of str to str
        Files of halves, to be remembered.
    total_size : int
        Bytes of all tensors.
    file : str
        The index's name.
    """
    new = deepcopy(dict(index))
    old = list(index["weight_map"].items())
    new["weight_map"] = dict(rearranged(old, replaced, name=lambda one: one[0]))
    n_new = sum(len(names) for names in replaced.values())
    edits = [Edit(file=file, what=f"weight_map: {len(replaced)} names -> {n_new}")]
    metadata = dict(index.get("metadata") or {})
    before = dict(metadata)
    if "total_size" in metadata:
        metadata["total_size"] = total_size
    metadata.pop(MOVED, None)
    if moved:
        metadata[MOVED] = dict(moved)
    if metadata != before:
        new["metadata"] = metadata
        edits += [
            Edit(
                file=file,
                what=f"metadata.{name}: {before.get(name, 'nothing')} -> {metadata.get(name, 'nothing')}",
            )
            for name in sorted(before.keys() | metadata.keys())
            if before.get(name) != metadata.get(name)
        ]
    return new, edits


def same_files(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two indexes send every tensor to the same file."""
    return bool(one.get("weight_map") == other.get("weight_map"))


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations differ in nothing but the form, and in how modules are named."""
    return _of_model(one) == _of_model(other)


def _of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in (FORM, *_QUANTIZATION)}
    if isinstance(kept.get(_TEXT), dict):
        kept[_TEXT] = _of_model(kept[_TEXT])
    return kept


def encoded(document: Mapping[str, Any]) -> bytes:
    """Write JSON as the hub's tools do, members in their order."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def moved_to(index: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Give the files that halves go back to, by tensor.

    Raises
    ------
    MetadataError
        If that is no object of names.
    """
    found = (index.get("metadata") or {}).get(MOVED, {})
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise MetadataError(
            "not an object of file names",
            file=file,
            field=f"metadata.{MOVED}",
            expected="file names",
            found=found,
        )
    return found
