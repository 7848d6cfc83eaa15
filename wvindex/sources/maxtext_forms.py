"""From the leaves of MaxText's tree to tensors of Hugging Face's form, every leaf accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from wvindex.errors import DuplicateName, MetadataError
from wvindex.limits import MAX_LAYERS
from wvindex.sources.maxtext_config import MaxTextConfig
from wvindex.sources.maxtext_names import FUSED, Holding, holding, normalized
from wvindex.sources.maxtext_shapes import Shapes
from wvindex.sources.maxtext_tensors import TensorForm
from wvindex.sources.orbax_arrays import LeafArray
from wvindex.sources.orbax_metadata import OPTIMIZER

_SCALED_QUERIES: Final = frozenset({"llama", "mistral", "mixtral", "gemma2"})
"""Model types whose queries MaxText keeps divided by the root of the head's width."""

_PADDED: Final = frozenset({"qwen2", "qwen3", "qwen3_moe", "gemma2"})
"""Model types whose vocabulary MaxText pads, and its export cuts to ``vocab_size``."""


@dataclass(frozen=True)
class Form:
    """A leaf, or a part of it, as a tensor.

    Attributes
    ----------
    name : str
        The leaf's, with what of it in brackets.
    array : LeafArray
    tensor : TensorForm or None
        None where no rule knows the leaf: it is shown as it is.
    aside : str or None
        Why it is none of the model's weights.
    """

    name: str
    array: LeafArray
    tensor: TensorForm | None = None
    aside: str | None = None


def forms(arrays: Sequence[LeafArray], config: MaxTextConfig, file: Path) -> tuple[Form, ...]:
    """Give every leaf as tensors, in the tree's order.

    Raises
    ------
    MetadataError
        If a stack has not as many layers as the configuration says, a leaf not the axes or an axis not the
        length that it should have, or a tensor of a layer is missing.
    DuplicateName
        If two leaves hold one tensor.
    """
    model = _Model(config, file)
    found = [form for array in arrays for form in model.forms_of(array)]
    holders: dict[str, str] = {}
    for form in found:
        if form.tensor is None or form.aside is not None:
            continue
        other = holders.setdefault(form.tensor.key, form.name)
        if other != form.name:
            raise DuplicateName(
                f"two leaves hold {form.tensor.key}",
                file=file,
                tensor=form.name,
                expected=other,
                found=form.name,
            )
    model.require_whole(holders.keys())
    return tuple(found)


def require_whole(config: MaxTextConfig, held: Collection[str], file: Path) -> None:
    """Refuse tensors that lack one which every layer of its kind has, or the model.

    Raises
    ------
    MetadataError
        Naming the first that is missing.
    """
    _Model(config, file).require_whole(held)


class _Model:
    """What a configuration says of the tree."""

    def __init__(self, config: MaxTextConfig, file: Path) -> None:
        self._hub = config.hub
        self._scan_axis = config.scan_axis
        self._file = file
        self._type = str(config.hub.get("model_type"))
        self._n_layers = self._count("num_hidden_layers", MAX_LAYERS)
        self._shapes = Shapes(config.hub)
        self._dense = min(self._count("first_k_dense_replace", MAX_LAYERS), self._n_layers)

    def _count(self, field: str, most: int) -> int:
        value = self._hub.get(field)
        if value is None and field != "num_hidden_layers":
            return 0
        if type(value) is not int or not 0 <= value <= most:
            raise self._error(field, f"an integer up to {most}", value)
        return value

    def _error(self, field: str, expected: str, found: object, tensor: str | None = None) -> MetadataError:
        return MetadataError(
            "the configuration and the checkpoint's tree do not agree",
            file=self._file,
            tensor=tensor,
            field=field,
            expected=expected,
            found="nothing" if found is None else found,
        )

    def forms_of(self, array: LeafArray) -> Iterator[Form]:
        """Give what one leaf holds."""
        path = normalized(array.leaf.path)
        if path is None:
            kind = "optimizer" if OPTIMIZER & set(array.leaf.path[:1]) else "training state"
            yield Form(array.leaf.name, array, aside=kind)
            return
        held = holding(path, self._type)
        if held is None:
            yield Form(array.leaf.name, array)
            return
        for position, layer in self._layers(array, held):
            key = held.role if layer is None else f"model.layers.{layer}.{held.role}"
            tensor = self._tensor(array, held, key, position)
            self._check_lengths(tensor, held)
            place = [] if position is None else [str(position)]
            for subscript, part, aside in self._parts(tensor, held):
                name = ", ".join([*place, *subscript])
                yield Form(f"{array.leaf.name}[{name}]" if name else array.leaf.name, array, part, aside)

    def _layers(self, array: LeafArray, held: Holding) -> Iterator[tuple[int | None, int | None]]:
        """Give where in the leaf each of Hugging Face's layers is, and its number there."""
        if held.stack is None:
            self._check_axes(array, held.layout.ndim)
            yield None, None
            return
        counts = {
            "layers": self._n_layers // held.step,
            "dense_layers": self._dense,
            "moe_layers": self._n_layers - self._dense,
            "mtp": self._count("num_nextn_predict_layers", MAX_LAYERS) or 1,
        }
        offsets = {"moe_layers": self._dense, "mtp": self._n_layers}
        offset, count = offsets.get(held.stack, 0) + held.first, counts[held.stack]
        if held.layer is not None:
            self._check_axes(array, held.layout.ndim)
            if held.layer >= count:
                raise self._error(
                    "num_hidden_layers", f"{count} of {held.stack}", held.layer + 1, array.leaf.name
                )
            yield None, offset + held.step * held.layer
            return
        self._check_axes(array, held.layout.ndim + 1)
        if array.shape[self._scan_axis] != count:
            raise self._error(
                "num_hidden_layers",
                f"{count} layers along axis {self._scan_axis}",
                array.shape,
                array.leaf.name,
            )
        for position in range(count):
            yield position, offset + held.step * position

    def _check_axes(self, array: LeafArray, ndim: int) -> None:
        if len(array.shape) != ndim:
            raise self._error("scan_layers", f"{ndim} axes", array.shape, array.leaf.name)
        if self._scan_axis >= max(ndim, 2):
            raise self._error("param_scan_axis", f"below {ndim}", self._scan_axis, array.leaf.name)

    def _check_lengths(self, tensor: TensorForm, held: Holding) -> None:
        """Compare every axis of a leaf with what the configuration says; a vocabulary may be padded."""
        shape = tensor.array.shape
        for axis, (field, length) in zip(tensor.axes, self._shapes.axes(held.role), strict=False):
            found = shape[axis]
            if length is None or found == length or (found > length and self._pads(field)):
                continue
            raise self._error(field, f"{length} along axis {axis}", shape, tensor.array.leaf.name)

    def _tensor(self, array: LeafArray, held: Holding, key: str, position: int | None) -> TensorForm:
        tensor = TensorForm(
            key,
            array,
            held.layout,
            scan_axis=self._scan_axis if position is not None else None,
            position=position or 0,
        )
        width = tensor.array.shape[tensor.axes[-1]]
        if held.role == "self_attn.q_proj.weight" and self._type in _SCALED_QUERIES:
            width = array.shape[tensor.axes[2]]
            tensor = replace(tensor, multiply=float(np.float32(np.sqrt(width))))
        if held.role in ("self_attn.q_proj.weight", "self_attn.k_proj.weight") and self._interleaves():
            tensor = replace(tensor, half_split=True)
        if self._type == "gemma2":
            if held.role == "model.embed_tokens.weight":
                tensor = replace(tensor, divide=float(np.float32(width**0.5)))
            elif held.role.endswith("norm.weight"):
                tensor = replace(tensor, subtract=1.0)
        return tensor

    def _interleaves(self) -> bool:
        """Whether rotary heads are kept interleaved, as Llama 3.1's are; DeepSeek's are so in both forms."""
        if self._type != "llama":
            return False
        for field in ("rope_scaling", "rope_parameters"):
            stated = self._hub.get(field)
            if isinstance(stated, Mapping) and stated.get("rope_type", stated.get("type")) == "llama3":
                return True
        return False

    def _parts(self, tensor: TensorForm, held: Holding) -> Iterator[tuple[list[str], TensorForm, str | None]]:
        """Divide a leaf that holds two tensors, or one and padding; anything else stays as it is."""
        vocabulary, rows = self._vocabulary(held), tensor.rows[1]
        if held.role == FUSED:
            rank = self._hub.get("q_lora_rank")
            if type(rank) is not int or not 0 < rank < rows:
                raise self._error("q_lora_rank", f"1 to {rows - 1}", rank, tensor.array.leaf.name)
            parent = tensor.key.removesuffix("fused_qkv_a_proj.weight")
            yield [f":{rank}"], replace(tensor, key=f"{parent}q_a_proj.weight", part=(0, rank)), None
            below = f"{parent}kv_a_proj_with_mqa.weight"
            yield [f"{rank}:"], replace(tensor, key=below, part=(rank, rows)), None
        elif vocabulary is not None and vocabulary < rows:
            yield [f":{vocabulary}"], replace(tensor, part=(0, vocabulary)), None
            yield [f"{vocabulary}:"], replace(tensor, part=(vocabulary, rows)), "padding"
        else:
            yield [], tensor, None

    def _vocabulary(self, held: Holding) -> int | None:
        """Give ``vocab_size`` where MaxText pads to more, and its export cuts that off again."""
        stated = self._hub.get("vocab_size")
        is_cut = held.role in ("model.embed_tokens.weight", "lm_head.weight") and self._pads("vocab_size")
        return stated if is_cut and type(stated) is int and stated > 0 else None

    def _pads(self, field: str) -> bool:
        return field == "vocab_size" and self._type in _PADDED

    def require_whole(self, held: Collection[str]) -> None:
        """Refuse a tree that lacks a tensor which every layer of its kind has."""
        roots = ["model.embed_tokens.weight", "model.norm.weight"]
        if not self._hub.get("tie_word_embeddings", self._type == "gemma2"):
            roots.append("lm_head.weight")
        wanted = roots + [
            f"model.layers.{layer}.{role}"
            for layer in range(self._n_layers)
            for role in self._roles(f"model.layers.{layer}.", held)
        ]
        missing = [key for key in wanted if key not in held]
        if missing:
            raise MetadataError(
                "tensors are missing from the checkpoint's tree",
                file=self._file,
                tensor=missing[0],
                expected=f"a leaf that holds {missing[0]}",
                found=f"{len(missing)} of {len(wanted)} missing",
            )

    def _roles(self, prefix: str, held: Collection[str]) -> list[str]:
        """Give what a layer must have, judged by what it has."""
        roles = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
        if self._type == "gemma2":
            roles += ["pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"]
        if self._type.startswith("deepseek") or self._hub.get("kv_lora_rank"):
            names = ["kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"]
            names += ["q_a_proj", "q_a_layernorm", "q_b_proj"] if self._hub.get("q_lora_rank") else ["q_proj"]
        else:
            names = ["q_proj", "k_proj", "v_proj"]
        if self._type.startswith("qwen3"):
            names += ["q_norm", "k_norm"]
        roles += [f"self_attn.{name}.weight" for name in names]
        routed = f"{prefix}mlp.gate.weight" in held or any(
            f"{prefix}mlp.experts.{name}_proj.weight" in held for name in ("gate", "up", "down")
        )
        below = "mlp.experts" if routed else "mlp"
        roles += [f"{below}.{name}_proj.weight" for name in ("gate", "up", "down")]
        return roles + (["mlp.gate.weight"] if routed else [])
