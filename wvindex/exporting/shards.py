"""Which file each tensor stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wvindex.exporting.tensors import OutTensor


def as_found(tensors: Sequence[OutTensor]) -> dict[str, list[OutTensor]]:
    """Divide tensors as the source had them, file by file, in its order."""
    files: dict[str, list[OutTensor]] = {}
    for tensor in tensors:
        files.setdefault(tensor.file, []).append(tensor)
    return files


def divided(tensors: Sequence[OutTensor], most_bytes: int | None) -> list[list[OutTensor]]:
    """Divide tensors in their order into shards of at most so many bytes, or of one tensor that has more."""
    shards: list[list[OutTensor]] = [[]]
    room = most_bytes
    for tensor in tensors:
        if room is not None and most_bytes is not None:
            if tensor.nbytes > room and shards[-1]:
                shards.append([])
                room = most_bytes
            room -= tensor.nbytes
        shards[-1].append(tensor)
    return shards


def numbered(shards: Sequence[list[OutTensor]], stem: str, suffix: str) -> dict[str, list[OutTensor]]:
    """Name shards as the hub and llama.cpp do: ``stem-00001-of-00003``; one alone is the stem."""
    if len(shards) == 1:
        return {f"{stem}{suffix}": shards[0]}
    count = len(shards)
    return {f"{stem}-{i:05d}-of-{count:05d}{suffix}": shard for i, shard in enumerate(shards, 1)}


def differing(tensors: Sequence[OutTensor], encodings: Mapping[str, str]) -> list[OutTensor]:
    """Give the tensors whose encoding is not the one that the source's ledger has."""
    return [tensor for tensor in tensors if encodings.get(tensor.name) not in (None, tensor.encoding.name)]
