"""A Hugging Face directory of a model's tensors: safetensors, their index, config.json, the tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wvindex.converting.shards import file_contents
from wvindex.converting.staged import Constant
from wvindex.converting.tensors import OutTensor as HubTensor
from wvindex.errors import CatalogError
from wvindex.exporting.held import Held
from wvindex.exporting.outline import Outline
from wvindex.exporting.shards import as_found, differing, divided, numbered
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.kept import CONFIG, HEADERS, INDEX
from wvindex.sources.safetensors import CONFIG_JSON
from wvindex.sources.safetensors_index import INDEX_SUFFIX, SUFFIX

STEM: Final = "model"

DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""What config.json calls encodings that a whole checkpoint may be in."""

_QUANTIZATION: Final = "quantization_config"
_FORMAT: Final = {"format": "pt"}


def compose_hub(
    outline: Outline,
    held: Held,
    tensors: Sequence[OutTensor],
    *,
    config: bytes,
    tokenizer: Mapping[str, bytes],
    max_shard_size: int | None,
) -> None:
    """Add every file of a directory to an outline.

    Parameters
    ----------
    outline : Outline
    held : Held
    tensors : sequence of OutTensor
        Plain. Those that stood in safetensors files stand in files of the same names again, unless
        `max_shard_size` divides them anew.
    config : bytes
        ``config.json``.
    tokenizer : mapping of str to bytes
        Files, by name.
    max_shard_size : int or None
        Bytes of tensors in a file.
    """
    found, metadata = _headers(held)
    keeps = max_shard_size is None and all(_is_plain_name(tensor.file, SUFFIX) for tensor in tensors)
    files = as_found(tensors) if keeps else numbered(divided(tensors, max_shard_size), STEM, SUFFIX)
    for name, shard in files.items():
        about = metadata.get(name, _FORMAT) if keeps else next(iter(metadata.values()), _FORMAT)
        hub = [HubTensor(one.name, one.encoding.name, one.shape, one) for one in shard]
        outline.contents[name] = file_contents(hub, about)
        outline.add_tensors(shard, name)
    is_whole = keeps and len(tensors) == len(held.ledger)
    if is_whole and found is not None and INDEX in held.kept:
        outline.contents[found] = [Constant(held.kept[INDEX])]
    elif len(files) > 1:
        outline.contents[found or f"{STEM}{INDEX_SUFFIX}"] = [Constant(_index(files))]
    outline.contents[CONFIG_JSON] = [Constant(config)]
    for name, data in tokenizer.items():
        outline.contents[name] = [Constant(data)]


def restored_config(held: Held, tensors: Sequence[OutTensor], outline: Outline) -> bytes:
    """Give config.json as the source had it, byte for byte unless tensors are in another encoding now."""
    changed = differing(tensors, {line.tensor: line.encoding for line in held.ledger})
    dropped = len(held.ledger) - len(tensors)
    kept = held.kept.get(CONFIG)
    if kept is not None and not changed and not dropped:
        return kept
    if kept is None:
        outline.notes.append("the store did not keep config.json as it was: its values are written anew")
    if changed:
        outline.notes.append(f"{len(changed)} tensors are not in the encoding that their source had")
    config = dict(held.source_config) if kept is None else json.loads(kept)
    if dropped:
        config.pop(_QUANTIZATION, None)
        outline.notes.append(f"codes are decoded: {dropped} tensors of scales are not written")
    return dumped(with_dtype(config, tensors) if changed or dropped else config)


def with_dtype(config: Mapping[str, Any], tensors: Sequence[OutTensor]) -> dict[str, Any]:
    """Give a configuration that names the encoding that most weights are in."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if len(tensor.shape) > 1:
            sizes[tensor.encoding.name] += tensor.nbytes
    name = DTYPES.get(sizes.most_common(1)[0][0]) if sizes else None
    return {**config, ("dtype" if "dtype" in config else "torch_dtype"): name} if name else dict(config)


def dumped(document: Mapping[str, Any]) -> bytes:
    """Write JSON as transformers does."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _index(files: Mapping[str, Sequence[OutTensor]]) -> bytes:
    total = sum(tensor.nbytes for shard in files.values() for tensor in shard)
    homes = {tensor.name: name for name, shard in files.items() for tensor in shard}
    return dumped({"metadata": {"total_size": total}, "weight_map": dict(sorted(homes.items()))})


def _headers(held: Held) -> tuple[str | None, dict[str, Any]]:
    """Give the index's name, and what each file's header said besides tensors.

    Raises
    ------
    CatalogError
        If what the store keeps is malformed.
    """
    data = held.kept.get(HEADERS)
    if data is None:
        return None, {}
    try:
        document = json.loads(data)
        index, metadata = document["index"], dict(document["metadata"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _malformed(held, repr(error)) from error
    for about in metadata.values():
        pairs = about.items() if isinstance(about, dict) else []
        if not (about is None or isinstance(about, dict)) or not all(
            isinstance(text, str) for pair in pairs for text in pair
        ):
            raise _malformed(held, about)
    if index is not None and not _is_plain_name(index, INDEX_SUFFIX):
        raise _malformed(held, index)
    return index, metadata


def _malformed(held: Held, found: object) -> CatalogError:
    return CatalogError(
        "not the headers of safetensors files",
        file=f"{held.name}/{HEADERS}",
        expected="what a build writes",
        found=found,
    )


def _is_plain_name(name: object, suffix: str) -> bool:
    """Whether a name that a catalog has is one of a file in its directory."""
    return isinstance(name, str) and name.endswith(suffix) and not {"/", "\\", "\0"} & set(name)
