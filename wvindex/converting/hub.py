"""Hugging Face safetensors checkpoints: their shards, their index, their configuration, every other file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from wvindex.build_guards import GENERATOR
from wvindex.building import Progress
from wvindex.converting.documents import (
    CONFIG,
    MOVED,
    QUANTIZATION_FILES,
    encoded,
    moved_to,
    rewritten_config,
    rewritten_index,
    rewritten_quantization,
    widths_of,
)
from wvindex.converting.files import all_files, identities, left_out
from wvindex.converting.leaves import LeafPlanner, OutTensor
from wvindex.converting.modules import ModuleNames
from wvindex.converting.pairs import Attention, attentions, require_every, require_form
from wvindex.converting.plan import Conversion, Edit, OnProgress, Request, Unit
from wvindex.converting.shards import arranged, file_contents
from wvindex.converting.staged import Constant, Content, StagedDirectory, require_checkpoint, require_place
from wvindex.errors import MetadataError, UnsafePath
from wvindex.limits import MAX_JSON_BYTES, PROCESS_BYTES
from wvindex.sources.files import OpenFiles, is_directory, list_names, read_beside
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import read_header
from wvindex.sources.safetensors_index import INDEX_SUFFIX, SUFFIX
from wvindex.sources.strict_json import parse_object
from wvindex.sources.unchanged import require_unchanged
from wvindex.store.reader import is_store
from wvindex.store.staging import SOURCES
from wvindex.transform.scales import ScaledTensors, attach_scales

KIND: Final = "safetensors"

_MOST_BUFFERED: Final = 64 << 20
"""Held of a file, and synced at once: a disk is fastest when it is given much."""

_WEIGHTS: Final = (SUFFIX, ".gguf", ".bin", ".pt", ".pth")


def claims(path: Path) -> bool:
    """Whether a directory holds safetensors."""
    return is_directory(path) and any(name.endswith((SUFFIX, INDEX_SUFFIX)) for name in list_names(path))


def _is_checkpoint(path: Path) -> bool:
    return claims(path) and not is_store(path) and (path / CONFIG).is_file()


@contextmanager
def planned(request: Request) -> Iterator[HubConversion]:
    """Open a checkpoint and plan; see `wvindex.converting.plan.Converter`."""
    require_place(request.target, _replaceable(request))
    with SafetensorsSource(request.source) as source:
        yield HubConversion(source, request)


def _replaceable(request: Request) -> Callable[[Path], None]:
    return partial(
        require_checkpoint,
        overwrite=request.overwrite,
        kind="a directory with a safetensors checkpoint",
        is_kind=_is_checkpoint,
    )


class HubConversion:
    """A checkpoint that is open, and what every file of the result is made of.

    Attributes
    ----------
    plan : Conversion
    """

    def __init__(self, source: SafetensorsSource, request: Request) -> None:
        self._source = source
        self._request = request
        self._directory = source.checkpoint.directory
        self._files = all_files(self._directory)
        self._contents: dict[str, list[Content]] = {}
        self._edits: list[Edit] = []
        self._units: list[Unit] = []
        self._emptied: dict[str, Mapping[str, str] | None] = {}
        widths = widths_of(source)
        self._attentions = require_form(attentions(source.tensors()), request.direction, self._directory)
        require_every(source.tensors())
        leaves = LeafPlanner(source, widths, self._scales(), request.allow_requant)
        self._arrange(leaves)
        self._rewrite_documents()
        carried = [name for name in self._files if name not in self._contents]
        self._contents |= {name: [self._files[name]] for name in carried}
        shards = source.headers.keys()
        self.plan = Conversion(
            kind=KIND,
            direction=request.direction,
            source=str(request.source),
            target=str(request.target),
            units=tuple(self._units),
            edits=tuple(self._edits),
            carried=tuple(name for name in carried if name not in shards),
            changes=tuple(leaves.changes),
            notes=self._notes([name for name in carried if name not in shards]),
        )

    def write(self, progress: OnProgress) -> None:
        """Write every file, and give the directory its name; see `Planned`."""
        total = sum(content.nbytes for contents in self._contents.values() for content in contents)
        done = 0

        def report(name: str, nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(Progress(done, total, name))

        with StagedDirectory(
            self._request.target,
            self._identity(),
            require_replaceable=_replaceable(self._request),
            buffer_bytes=min((self._request.max_memory - PROCESS_BYTES) // 4, _MOST_BUFFERED),
            restart=self._request.restart,
        ) as staged:
            staged.require_space(total)
            for name, contents in self._contents.items():
                staged.write(name, contents, partial(report, name))
            require_unchanged(self._source)
            for file in self._files.values():
                file.require_unchanged()
            staged.publish()

    def _identity(self) -> dict[str, Any]:
        """Give what tells this conversion from others."""
        digest = hashlib.sha256()
        for name, contents in self._contents.items():
            digest.update(repr((name, [content.nbytes for content in contents])).encode())
        return {
            "generator": GENERATOR,
            SOURCES: identities(self._files),
            "options": {"direction": self._request.direction, "allow_requant": self._request.allow_requant},
            "plan_sha256": digest.hexdigest(),
        }

    def _scales(self) -> ScaledTensors:
        """Pair FP8 codes with their scales, which must be sound where they are fused or parted."""
        scaled, refused = attach_scales(self._source)
        for one in self._attentions:
            for leaves in (one.query, one.below, one.fused):
                for info in leaves.values():
                    if info.name in refused:
                        raise refused[info.name]
        return scaled

    def _arrange(self, leaves: LeafPlanner) -> None:
        """Plan every tensor, file by file, and the index."""
        homes = {info.name: file for file, header in self._source.headers.items() for info in header.tensors}
        name, index = self._index()
        moved = moved_to(index, self._directory / name) if name is not None else {}
        replaced: dict[str, list[OutTensor]] = {}
        added: dict[str, list[OutTensor]] = {}
        index_names: dict[str, list[tuple[str, str]]] = {}
        remembered: dict[str, str] = {}
        for one in self._attentions:
            if self._request.direction == "fuse":
                self._fuse(one, leaves, homes, replaced, index_names, remembered)
            else:
                self._split(one, leaves, homes, replaced, added, index_names, moved)
        self._write_shards(replaced, added)
        if name is not None:
            total = sum(unit.nbytes for unit in self._units)
            document, edits = rewritten_index(index, index_names, remembered, total, name)
            self._contents[name] = [Constant(encoded(document))]
            self._edits += edits

    def _fuse(
        self,
        one: Attention,
        leaves: LeafPlanner,
        homes: Mapping[str, str],
        replaced: dict[str, list[OutTensor]],
        index_names: dict[str, list[tuple[str, str]]],
        remembered: dict[str, str],
    ) -> None:
        """Have the fused tensors stand where the query's stood."""
        for leaf, tensor in leaves.fused(one).items():
            query, below = one.query[leaf], one.below[leaf]
            home = homes[query.name]
            replaced |= {query.name: [tensor], below.name: []}
            index_names |= {query.name: [(tensor.name, home)], below.name: []}
            if homes[below.name] != home:
                remembered[below.name] = homes[below.name]
            self._unit("fuse", (query.name, below.name), [tensor], home)

    def _split(
        self,
        one: Attention,
        leaves: LeafPlanner,
        homes: Mapping[str, str],
        replaced: dict[str, list[OutTensor]],
        added: dict[str, list[OutTensor]],
        index_names: dict[str, list[tuple[str, str]]],
        moved: Mapping[str, str],
    ) -> None:
        """Have both halves stand where they were fused, or where the lower one was before that."""
        for leaf, (query, below) in leaves.split(one).items():
            fused = one.fused[leaf]
            home = homes[fused.name]
            elsewhere = self._member(moved.get(below.name, home))
            replaced[fused.name] = [query, below] if elsewhere == home else [query]
            if elsewhere != home:
                added.setdefault(elsewhere, []).append(below)
            index_names[fused.name] = [(query.name, home), (below.name, elsewhere)]
            self._unit("split", (fused.name,), [query, below], home)

    def _member(self, name: str) -> str:
        """Refuse a file name, found in an index, that is not one of a file for tensors beside it.

        A file that was left without tensors when they were fused is in no index; any other stays what it is.
        """
        if name in self._source.headers or name in self._emptied:
            return name
        if "/" in name or not name.endswith(SUFFIX) or "\\" in name:
            raise UnsafePath(
                "a file name leads out of the checkpoint's directory",
                file=self._directory,
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

    def _write_shards(
        self, replaced: Mapping[str, Sequence[OutTensor]], added: Mapping[str, Sequence[OutTensor]]
    ) -> None:
        """Compose the files of tensors: those that nothing changes in are copied whole."""
        for file, header in self._source.headers.items():
            kept = [info for info in header.tensors if info.name not in replaced]
            for info in kept:
                self._units.append(
                    Unit(
                        operation="copy",
                        inputs=(info.name,),
                        outputs=(info.name,),
                        nbytes=info.nbytes,
                        file=file,
                    )
                )
            if len(kept) == len(header.tensors) and file not in added:
                continue
            tensors = arranged(self._source, header.tensors, replaced, added.get(file, ()))
            self._contents[file] = file_contents(tensors, header.metadata)
        for file, metadata in sorted(self._emptied.items()):
            self._contents[file] = file_contents(arranged(self._source, (), {}, added[file]), metadata)

    def _unit(self, operation: Any, inputs: tuple[str, ...], made: Sequence[OutTensor], file: str) -> None:
        self._units.append(
            Unit(
                operation=operation,
                inputs=inputs,
                outputs=tuple(tensor.name for tensor in made),
                nbytes=sum(tensor.content.nbytes for tensor in made),
                file=file,
            )
        )

    def _index(self) -> tuple[str | None, dict[str, Any]]:
        """Read the index again, whole; none where there is none."""
        name = self._source.checkpoint.index
        if name is None:
            return None, {}
        data = read_beside(self._directory, name, MAX_JSON_BYTES) or b"{}"
        return name, parse_object(data, file=self._directory / name)

    def _rewrite_documents(self) -> None:
        """Compose config.json, and other files that name modules."""
        direction = self._request.direction
        names = ModuleNames(self._attentions, direction, self._directory / CONFIG)
        config, edits = rewritten_config(self._source.config(), names, direction)
        self._edits += edits
        if edits:
            self._contents[CONFIG] = [Constant(encoded(config))]
        for name in QUANTIZATION_FILES:
            data = read_beside(self._directory, name, MAX_JSON_BYTES)
            if data is None:
                continue
            names = ModuleNames(self._attentions, direction, self._directory / name)
            old = parse_object(data, file=self._directory / name)
            document, edits = rewritten_quantization(name, old, names)
            self._edits += edits
            if edits:
                self._contents[name] = [Constant(encoded(document))]

    def _notes(self, carried: Sequence[str]) -> tuple[str, ...]:
        weights = [name for name in carried if name.endswith(_WEIGHTS)]
        notes = [f"{name} holds weights that no index lists: they stay as they are" for name in weights]
        notes += [f"{name} is not carried over" for name in left_out(self._directory)]
        return tuple(notes)
