"""Which tensors an export is of, and what is said beside them: by the format asked for and the one found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from wvindex.errors import DuplicateName, UnsupportedError, WvindexError
from wvindex.exporting.absorbed import (
    BLOCK,
    MODEL_TYPE,
    absorbed_block,
    absorbed_config,
    dense_tensors,
    has_factors,
)
from wvindex.exporting.gguf_described import gguf_metadata
from wvindex.exporting.gguf_file import VERSION, Metadata, typed, without_tokenizer
from wvindex.exporting.gguf_named import gguf_tensors
from wvindex.exporting.gguf_target import compose_gguf, restored_metadata, with_file_type
from wvindex.exporting.held import Held
from wvindex.exporting.hub_described import hub_config
from wvindex.exporting.hub_named import hub_tensors, standard_tensors
from wvindex.exporting.hub_target import compose_hub, dumped, restored_config, with_dtype
from wvindex.exporting.maxtext_target import compose_maxtext
from wvindex.exporting.outline import Outline
from wvindex.exporting.restore import Refused, restored
from wvindex.exporting.tensors import OutTensor, cast_to, refusal_in
from wvindex.exporting.vocabularies import gguf_tokenizer, hub_tokenizer
from wvindex.formats.encodings import Encoding

GGUF: Final = "gguf"
SAFETENSORS: Final = "safetensors"
MAXTEXT: Final = "maxtext"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of an export; see `wvindex.export`.

    Attributes
    ----------
    format : {"safetensors", "gguf", "maxtext"}
    mla : {"keep", "absorb"} or None
    storage : Encoding or None
    tokenizer : bool
    max_shard_size : int or None
    scan_layers, fused_mla_lora_proj : bool
        Of MaxText.
    """

    format: Literal["safetensors", "gguf", "maxtext"]
    mla: Literal["keep", "absorb"] | None
    storage: Encoding | None
    tokenizer: bool
    max_shard_size: int | None
    scan_layers: bool = True
    fused_mla_lora_proj: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return {
            "format": self.format,
            "mla": self.mla,
            "dtype": self.storage.name if self.storage is not None else "keep",
            "tokenizer": self.tokenizer,
            "max_shard_size": self.max_shard_size,
            "scan_layers": self.scan_layers,
            "fused_mla_lora_proj": self.fused_mla_lora_proj,
        }


def compose(held: Held, asked: Options, *, stem: str) -> Outline:
    """Plan every file of an export; what stands in the way is in the outline's refusals.

    Parameters
    ----------
    held : Held
        Which has the form that is asked for.
    asked : Options
    stem : str
        Of GGUF files' names.
    """
    outline = Outline()
    outline.is_absorbed = asked.mla == "absorb" or (asked.mla is None and not has_factors(held))
    tensors = _ready(outline, _tensors(held, asked, absorbed=outline.is_absorbed), asked)
    if outline.refusals:
        outline.add_tensors(tensors, "")
        return outline
    try:
        _COMPOSERS[asked.format](outline, held, tensors, asked, stem)
    except UnsupportedError as error:
        outline.refusals.append((error.tensor or error.field or asked.format, error))
        outline.add_tensors(tensors, "")
    return outline


def _tensors(held: Held, asked: Options, *, absorbed: bool) -> Iterable[OutTensor | Refused]:
    if absorbed:
        return dense_tensors(held)
    if asked.format == MAXTEXT:
        return standard_tensors(held, asked.storage)
    if held.source_format == asked.format:
        return restored(held)
    named = hub_tensors if asked.format == SAFETENSORS else gguf_tensors
    return named(held, asked.storage)


def _ready(outline: Outline, found: Iterable[OutTensor | Refused], asked: Options) -> list[OutTensor]:
    """Cast tensors as asked, and refuse those that the format has no place for."""
    tensors: list[OutTensor] = []
    decoded: set[str] = set()
    for one in found:
        try:
            tensor = None if isinstance(one, Refused) else cast_to(one, asked.storage)
            error = one.error if isinstance(one, Refused) else None
        except WvindexError as refused:
            tensor, error = None, refused
        error = error or (refusal_in(tensor, asked.format) if tensor is not None else None)
        if error is not None:
            outline.refusals.append((one.tensor if isinstance(one, Refused) else one.name, error))
        elif tensor is not None:
            tensors.append(tensor)
            if tensor.encoding.scale_block is None:
                decoded.add(tensor.name)
    _refuse_twice(outline, tensors)
    return [tensor for tensor in tensors if tensor.scales_of not in decoded]


def _refuse_twice(outline: Outline, tensors: Sequence[OutTensor]) -> None:
    """Refuse two tensors of one name: one of the two would be lost."""
    counts = Counter(tensor.name for tensor in tensors)
    for name, count in counts.items():
        if count > 1:
            error = DuplicateName("several tensors have one name", tensor=name, expected=1, found=count)
            outline.refusals.append((name, error))


def _compose_gguf(
    outline: Outline, held: Held, tensors: Sequence[OutTensor], asked: Options, stem: str
) -> None:
    version = VERSION
    if outline.is_absorbed:
        metadata: Metadata = _absorbed_metadata(held, tensors)
    elif held.source_format == GGUF:
        metadata, version = restored_metadata(held, tensors, outline)
    else:
        metadata = gguf_metadata(held, tensors)
    if not asked.tokenizer:
        metadata = without_tokenizer(metadata)
    elif outline.is_absorbed or held.source_format != GGUF:
        metadata = {**metadata, **gguf_tokenizer(held, tensors)}
    compose_gguf(outline, tensors, metadata, stem=stem, version=version, max_shard_size=asked.max_shard_size)


def _absorbed_metadata(held: Held, tensors: Sequence[OutTensor]) -> Metadata:
    block = json.dumps(absorbed_block(held))
    about = {"general.architecture": typed("STRING", MODEL_TYPE), BLOCK: typed("STRING", block)}
    return with_file_type(about, tensors)


def _compose_hub(
    outline: Outline, held: Held, tensors: Sequence[OutTensor], asked: Options, stem: str
) -> None:
    if outline.is_absorbed:
        config = dumped(with_dtype(absorbed_config(held), tensors))
    elif held.source_format == SAFETENSORS:
        config = restored_config(held, tensors, outline)
    else:
        config = dumped(with_dtype(hub_config(held, tensors), tensors))
    tokenizer = hub_tokenizer(held) if asked.tokenizer else {}
    compose_hub(
        outline, held, tensors, config=config, tokenizer=tokenizer, max_shard_size=asked.max_shard_size
    )


def _compose_maxtext(
    outline: Outline, held: Held, tensors: Sequence[OutTensor], asked: Options, stem: str
) -> None:
    compose_maxtext(
        outline,
        held,
        tensors,
        scan_layers=asked.scan_layers,
        fused_mla_lora_proj=asked.fused_mla_lora_proj,
        tokenizer=asked.tokenizer,
    )


_COMPOSERS: Final = {GGUF: _compose_gguf, SAFETENSORS: _compose_hub, MAXTEXT: _compose_maxtext}
