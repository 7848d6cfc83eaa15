"""Which tensor of a Hugging Face result stands in which of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from wvindex.converting.documents import MOVED
from wvindex.converting.files import SourceFile
from wvindex.converting.leaves import LeafPlanner
from wvindex.converting.pairs import Attention
from wvindex.converting.plan import Unit
from wvindex.converting.shards import arranged, file_contents
from wvindex.converting.staged import Content
from wvindex.converting.tensors import OutTensor
from wvindex.errors import MetadataError, UnsafePath
from wvindex.sources.files import OpenFiles
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import read_header
from wvindex.sources.safetensors_index import SUFFIX

Entries = dict[str, list[tuple[str, str]]]
"""By a name that is gone, the names and files that stand for it."""


class Arrangement:
    """Puts the new tensors of each attention into files, one attention after another.

    Parameters
    ----------
    source : SafetensorsSource
    leaves : LeafPlanner
    files : mapping of str to SourceFile
        Every file of the checkpoint.
    moved : mapping of str to str
        By tensor, the file that a half goes back to.

    Attributes
    ----------
    units : list of Unit
    entries, entries_back : dict
        What changes in the index, and what would on the way back.
    homes : dict of str to str
        By tensor, files of halves that stood, or will stand, elsewhere than what they are fused to.
    """

    def __init__(
        self,
        source: SafetensorsSource,
        leaves: LeafPlanner,
        files: Mapping[str, SourceFile],
        moved: Mapping[str, str],
    ) -> None:
        self.units: list[Unit] = []
        self.entries: Entries = {}
        self.entries_back: Entries = {}
        self.homes: dict[str, str] = {}
        self._source = source
        self._leaves = leaves
        self._files = files
        self._moved = moved
        self._file_of = {
            info.name: file for file, header in source.headers.items() for info in header.tensors
        }
        self._replaced: dict[str, list[OutTensor]] = {}
        self._added: dict[str, list[OutTensor]] = {}
        self._emptied: dict[str, Mapping[str, str] | None] = {}

    def fuse(self, one: Attention) -> None:
        """Have the fused tensors stand where the query's stood."""
        for leaf, tensor in self._leaves.fused(one).items():
            query, below = one.query[leaf].name, one.below[leaf].name
            home, elsewhere = self._file_of[query], self._file_of[below]
            self._replaced |= {query: [tensor], below: []}
            self.entries |= {query: [(tensor.name, home)], below: []}
            self.entries_back[tensor.name] = [(query, home), (below, elsewhere)]
            if elsewhere != home:
                self.homes[below] = elsewhere
            self._unit("fuse", (query, below), [tensor], home)

    def split(self, one: Attention) -> None:
        """Have both halves stand where they were fused, or where the lower one was before that."""
        for leaf, (query, below) in self._leaves.split(one).items():
            fused = one.fused[leaf].name
            home = self._file_of[fused]
            elsewhere = self._member(self._moved.get(below.name, home))
            self._replaced[fused] = [query, below] if elsewhere == home else [query]
            if elsewhere != home:
                self._added.setdefault(elsewhere, []).append(below)
                self.homes[below.name] = elsewhere
            self.entries[fused] = [(query.name, home), (below.name, elsewhere)]
            self.entries_back |= {query.name: [(fused, home)], below.name: []}
            self._unit("split", (fused,), [query, below], home)

    def contents(self) -> dict[str, list[Content]]:
        """Compose the files of tensors that something changes in; the others are copied whole."""
        made: dict[str, list[Content]] = {}
        for file, header in self._source.headers.items():
            kept = [info for info in header.tensors if info.name not in self._replaced]
            self.units += [
                Unit(
                    operation="copy",
                    inputs=(info.name,),
                    outputs=(info.name,),
                    nbytes=info.nbytes,
                    file=file,
                )
                for info in kept
            ]
            if len(kept) == len(header.tensors) and file not in self._added:
                continue
            tensors = arranged(self._source, header.tensors, self._replaced, self._added.get(file, ()))
            made[file] = file_contents(tensors, header.metadata)
        for file, metadata in sorted(self._emptied.items()):
            made[file] = file_contents(arranged(self._source, (), {}, self._added[file]), metadata)
        return made

    def _member(self, name: str) -> str:
        """Refuse a file name, found in an index, that is not one of a file for tensors beside it.

        A file that was left without tensors when they were fused is in no index; any other stays what it is.
        """
        if name in self._source.headers or name in self._emptied:
            return name
        if "/" in name or not name.endswith(SUFFIX) or "\\" in name:
            raise UnsafePath(
                "a file name leads out of the checkpoint's directory",
                file=self._source.checkpoint.directory,
                field="file name",
                expected=f"a name that ends in {SUFFIX}",
                found=name,
            )
        self._emptied[name] = self._metadata_of_empty(name)
        return name

    def _metadata_of_empty(self, name: str) -> Mapping[str, str] | None:
        """Give the metadata of a file without tensors; of one that is not there, those of the others."""
        found = self._files.get(name)
        if found is None:
            return next(iter(self._source.headers.values())).metadata
        with OpenFiles() as files:
            header = read_header(files, found.path, files.add(found.path, found.real).st_size)
        if header.tensors:
            raise MetadataError(
                "the index sends tensors back to a file that is not the checkpoint's",
                file=found.path,
                field=f"metadata.{MOVED}",
                expected="a file without tensors, or of the index",
                found=f"{len(header.tensors)} tensors",
            )
        return header.metadata

    def _unit(
        self,
        operation: Literal["fuse", "split"],
        inputs: tuple[str, ...],
        made: Sequence[OutTensor],
        file: str,
    ) -> None:
        self.units.append(
            Unit(
                operation=operation,
                inputs=inputs,
                outputs=tuple(tensor.name for tensor in made),
                nbytes=sum(tensor.content.nbytes for tensor in made),
                file=file,
            )
        )
