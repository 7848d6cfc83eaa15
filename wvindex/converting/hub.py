"""Hugging Face safetensors checkpoints: their shards, their index, their configuration, every other file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from wvindex.build_guards import GENERATOR
from wvindex.converting.arrangement import Arrangement
from wvindex.converting.documents import (
    CONFIG,
    QUANTIZATION_FILES,
    moved_to,
    rewritten_config,
    rewritten_index,
    rewritten_quantization,
    same_files,
    same_model,
    widths_of,
)
from wvindex.converting.files import all_files, identities, left_out
from wvindex.converting.leaves import LeafPlanner, is_scaled_whole
from wvindex.converting.modules import ModuleNames
from wvindex.converting.pairs import FUSED, attentions, require_every, require_form
from wvindex.converting.plan import Conversion, Direction, Edit, OnProgress, Request, Told
from wvindex.converting.staged import Constant, Content, StagedDirectory, require_checkpoint, require_place
from wvindex.converting.way_back import NAME as KEPT_TEXTS
from wvindex.converting.way_back import Document, rewritten
from wvindex.limits import MAX_JSON_BYTES, PROCESS_BYTES
from wvindex.sources.files import is_directory, list_names, read_beside
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_index import INDEX_SUFFIX, SUFFIX
from wvindex.sources.strict_json import parse_object
from wvindex.sources.unchanged import require_unchanged
from wvindex.store.reader import is_store
from wvindex.store.staging import SOURCES
from wvindex.transform.scales import ScaledTensors, attach_scales

KIND: Final = "safetensors"

HAS_OPTIMIZER: Final = False

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
        widths = widths_of(source)
        self._attentions = require_form(attentions(source.tensors()), request.direction, self._directory)
        require_every(source.tensors())
        leaves = LeafPlanner(source, widths, self._scales(), request.allow_requant)
        arrangement = self._arranged(leaves)
        carried = [name for name in self._files if name not in self._contents and name != KEPT_TEXTS]
        self._contents |= {name: [self._files[name]] for name in carried}
        shards = source.headers.keys()
        self.plan = Conversion(
            kind=KIND,
            direction=request.direction,
            source=str(request.source),
            target=str(request.target),
            units=tuple(arrangement.units),
            edits=tuple(self._edits),
            carried=tuple(name for name in carried if name not in shards),
            changes=tuple(leaves.changes),
            notes=self._notes([name for name in carried if name not in shards]),
        )

    def write(self, progress: OnProgress) -> None:
        """Write every file, and give the directory its name; see `Planned`."""
        total = sum(content.nbytes for contents in self._contents.values() for content in contents)
        report = Told(total, progress)
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
        """Pair FP8 codes with their scales, which must be sound where they are fused or parted.

        Scales of a whole matrix or a row (compressed-tensors' ``weight_scale``) are leaves like any other.
        """
        scaled, refused = attach_scales(self._source)
        for one in self._attentions:
            for leaves in (one.query, one.below, one.fused):
                for info in leaves.values():
                    if info.name in refused and not is_scaled_whole(leaves):
                        raise refused[info.name]
        return scaled

    def _arranged(self, leaves: LeafPlanner) -> Arrangement:
        """Plan every tensor, file by file, and every document."""
        name, index = self._index()
        moved = moved_to(index, self._directory / name) if name is not None else {}
        arrangement = Arrangement(self._source, leaves, self._files, moved)
        for one in self._attentions:
            (arrangement.fuse if self._request.direction == "fuse" else arrangement.split)(one)
        self._contents |= arrangement.contents()
        written = {one.fused_name.rpartition(".")[2] for one in self._attentions}
        texts, edits = rewritten(
            self._documents(arrangement, name),
            self._directory,
            self._request.direction,
            keep=written == {FUSED[0]},
        )
        self._contents |= {name: [Constant(text)] for name, text in texts.items()}
        self._edits += edits
        return arrangement

    def _index(self) -> tuple[str | None, dict[str, Any]]:
        """Read the index again, whole; none where there is none."""
        name = self._source.checkpoint.index
        if name is None:
            return None, {}
        data = read_beside(self._directory, name, MAX_JSON_BYTES) or b"{}"
        return name, parse_object(data, file=self._directory / name)

    def _documents(self, arrangement: Arrangement, index: str | None) -> list[Document]:
        """Give the documents that name tensors or modules: config.json, the index, quantizers' files."""
        there = self._request.direction
        back: Direction = "unfuse" if there == "fuse" else "fuse"
        found = []
        for name in (CONFIG, *QUANTIZATION_FILES):
            text = read_beside(self._directory, name, MAX_JSON_BYTES)
            if text is not None:
                rewrite = partial(self._rewrite, name)
                document = Document(
                    name,
                    text,
                    partial(rewrite, there),
                    partial(rewrite, back),
                    same_model if name == CONFIG else None,
                )
                found.append(document)
        if index is not None:
            total = sum(unit.nbytes for unit in arrangement.units)
            go, come = (
                partial(
                    rewritten_index,
                    replaced=entries,
                    moved=arrangement.homes if way == "fuse" else {},
                    total_size=total,
                    file=index,
                )
                for way, entries in ((there, arrangement.entries), (back, arrangement.entries_back))
            )
            text = read_beside(self._directory, index, MAX_JSON_BYTES) or b"{}"
            found.append(Document(index, text, go, come, same_files))
        return found

    def _rewrite(
        self, name: str, direction: Direction, document: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[Edit]]:
        names = ModuleNames(self._attentions, direction, self._directory / name)
        if name == CONFIG:
            return rewritten_config(document, names, direction)
        return rewritten_quantization(name, document, names)

    def _notes(self, carried: Sequence[str]) -> tuple[str, ...]:
        weights = [name for name in carried if name.endswith(_WEIGHTS)]
        notes = [f"{name} holds weights that no index lists: they stay as they are" for name in weights]
        notes += [f"{name} is not carried over" for name in left_out(self._directory)]
        return tuple(notes)
