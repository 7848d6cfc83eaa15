"""A MaxText checkpoint of a model's tensors: the tree's leaves, Orbax's documents, configuration, tokenizer.

``OUT/0/items`` holds the tree, as after MaxText's own conversion; ``load_parameters_path`` is to name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wvindex.arch.keys import split_layer
from wvindex.converting.orbax_documents import spaced
from wvindex.converting.staged import Constant
from wvindex.errors import MetadataError, UnsupportedError
from wvindex.exporting.described import described, require_same_model
from wvindex.exporting.held import Held
from wvindex.exporting.hub_described import hub_config
from wvindex.exporting.hub_target import dumped, with_dtype
from wvindex.exporting.maxtext_described import (
    block_of,
    is_interleaved,
    notes_on,
    settings_files,
)
from wvindex.exporting.maxtext_leaves import ITEMS, STEP, LeafForm
from wvindex.exporting.maxtext_named import Tree
from wvindex.exporting.maxtext_tree import Model, add_leaves, fused
from wvindex.exporting.outline import Outline
from wvindex.exporting.tensors import OutTensor
from wvindex.exporting.vocabularies import hub_tokenizer
from wvindex.sources.kept import CONFIG
from wvindex.sources.maxtext_config import MaxTextConfig
from wvindex.sources.maxtext_forms import require_whole
from wvindex.sources.orbax_metadata import METADATA
from wvindex.sources.safetensors import CONFIG_JSON

CHECKPOINT_METADATA: Final = "_CHECKPOINT_METADATA"
_HANDLER: Final = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
_DICT_KEY: Final = 2
"""Orbax's number for a key of a dictionary (``KeyType.DICT``)."""

_NAMED: Final = 3
"""Leaves that a note names; a tree without scanned layers has hundreds."""

_ROUTER: Final = "mlp.gate.weight"


def compose_maxtext(
    outline: Outline,
    held: Held,
    tensors: Sequence[OutTensor],
    *,
    scan_layers: bool,
    fused_mla_lora_proj: bool,
    tokenizer: bool,
) -> None:
    """Add every file and every leaf of a checkpoint to an outline.

    Parameters
    ----------
    outline : Outline
    held : Held
        With the factors of latent attention.
    tensors : sequence of OutTensor
        By standard keys, in encodings that MaxText has.
    scan_layers, fused_mla_lora_proj, tokenizer : bool
        As in `wvindex.export`.

    Raises
    ------
    UnsupportedError
        If MaxText has no such model.
    UsageError
        If there is nothing to fuse, or PyYAML is not installed.
    """
    stated = _stated(held, tensors)
    block = block_of(stated, held.name)
    n_layers, n_dense = held.config.num_hidden_layers or 0, 0
    if block == "deepseek":
        n_dense = _dense_layers(tensors, n_layers)
        stated = stated | {"first_k_dense_replace": n_dense}
    if block == "gemma2" and n_layers % 2:
        raise UnsupportedError(
            "MaxText has two layers of this family in one",
            file=held.name,
            field="num_hidden_layers",
            expected="an even number",
            found=n_layers,
        )
    settings = settings_files(
        held, stated, tensors, scan_layers=scan_layers, fused_mla_lora_proj=fused_mla_lora_proj
    )
    interleaves = is_interleaved(stated, held.name)
    model = Model(held.config, Tree(block, n_layers, n_dense, scan_layers), interleaves, held.name)
    _refuse_partial(outline, stated, tensors, held.name)
    leaves = add_leaves(outline, fused(tensors, held.config) if fused_mla_lora_proj else tensors, model)
    outline.leaves += leaves
    outline.notes += [*notes_on(held.config, fused_mla_lora_proj=fused_mla_lora_proj), *_rounded(leaves)]
    custom = {"scan_layers": scan_layers}
    documents = {
        f"{ITEMS}/{METADATA}": spaced(tree_metadata(leaves, custom)),
        f"{ITEMS}/{CHECKPOINT_METADATA}": spaced(checkpoint_metadata(_HANDLER, custom)),
        f"{STEP}/{CHECKPOINT_METADATA}": spaced(checkpoint_metadata({"items": _HANDLER}, custom)),
        **settings,
        CONFIG_JSON: dumped(with_dtype(stated, tensors)),
        **(hub_tokenizer(held) if tokenizer else {}),
    }
    outline.contents |= {name: [Constant(data)] for name, data in documents.items()}


def _stated(held: Held, tensors: Sequence[OutTensor]) -> dict[str, Any]:
    """Give config.json of what is written: nothing there is quantized, and nothing left to defaults."""
    if held.source_format == "safetensors":
        kept = held.kept.get(CONFIG)
        stated = dict(held.source_config) if kept is None else json.loads(kept)
        stated.pop("quantization_config", None)
        require_same_model(described(held.name, "safetensors", stated, tensors), held.config)
    else:
        stated = hub_config(held, tensors)
    config = held.config
    explicit: dict[str, Any] = {
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    if config.mla is not None:
        explicit |= {
            "q_lora_rank": config.mla.q_lora_rank,
            "kv_lora_rank": config.mla.kv_lora_rank,
            "num_nextn_predict_layers": config.num_nextn_predict_layers,
        }
    return stated | {name: value for name, value in explicit.items() if stated.get(name) is None}


def _refuse_partial(
    outline: Outline, stated: Mapping[str, Any], tensors: Sequence[OutTensor], name: str
) -> None:
    """Refuse a part of a model: what MaxText does not find, it has no value for."""
    try:
        require_whole(MaxTextConfig(stated), {tensor.name for tensor in tensors}, Path(name))
    except MetadataError as error:
        found = UnsupportedError(
            "MaxText wants the whole model, and a tensor is missing",
            file=name,
            tensor=error.tensor,
            expected=error.tensor or error.expected,
            found="nothing",
        )
        outline.refusals.append((error.tensor or name, found))


def _dense_layers(tensors: Sequence[OutTensor], n_layers: int) -> int:
    """Give how many of the first layers have no router."""
    places = (split_layer(tensor.name) for tensor in tensors)
    routed = [layer for layer, role in places if role == _ROUTER and layer is not None]
    return min([*routed, n_layers])


def _rounded(leaves: Sequence[LeafForm]) -> list[str]:
    """Say which values do not come back as they were, or as another type."""
    found = [leaf for leaf in leaves if leaf.is_rounded]
    notes = []
    if found:
        factors = ", ".join(sorted({f"{leaf.change.multiply:.6g}" for leaf in found}))
        names = ", ".join(leaf.name for leaf in found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
        notes.append(f"rounded, for MaxText keeps them times {factors}, as its own conversion does: {names}")
    norms = sum(bool(leaf.change.add) for leaf in leaves)
    if norms:
        notes.append(f"norms are 1 + w, in float32: {norms} leaves")
    return notes


def tree_metadata(leaves: Sequence[LeafForm], custom: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``_METADATA``: every leaf, as Orbax describes arrays of NumPy."""
    members = {
        str(leaf.path): {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in leaf.path],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        for leaf in leaves
    }
    return {
        "tree_metadata": members,
        "use_ocdbt": True,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": dict(custom),
    }


def checkpoint_metadata(handlers: object, custom: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``_CHECKPOINT_METADATA``, in which MaxText looks up ``scan_layers``; it names no time."""
    return {
        "item_handlers": handlers,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": None,
        "commit_timestamp_nsecs": None,
        "custom_metadata": dict(custom),
    }
