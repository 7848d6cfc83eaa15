"""MaxText's Orbax checkpoints: parameters and Adam's moments, scanned or not, in OCDBT or a directory a leaf.

A leaf that stays is copied value by value, compressed as it is; a new one is written chunk by chunk through
TensorStore. In OCDBT, values are written into small databases, each whole before the next is begun, which one
manifest refers to at the end: so Orbax itself saves from several hosts, and so a conversion that was
interrupted goes on.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from wvindex.build_guards import GENERATOR, require_budget
from wvindex.converting.files import SourceFile, all_files, identities
from wvindex.converting.orbax_batches import Batch, databases, is_of_database
from wvindex.converting.orbax_documents import (
    ARRAY_METADATAS,
    SHARDING,
    Leaves,
    compact,
    replacements,
    rewritten_array_metadatas,
    rewritten_sharding,
    rewritten_tree,
    spaced,
    written_shapes,
)
from wvindex.converting.orbax_grid import chunk_keys, require_chunks, require_decodable
from wvindex.converting.orbax_leaves import Path_, is_optimizers, place_of
from wvindex.converting.orbax_pairs import rechunked, steps
from wvindex.converting.orbax_settings import is_left_unsaid, rewritten_settings, settings
from wvindex.converting.orbax_values import Region, SourceValues, TargetValues, merge, new_metadata
from wvindex.converting.plan import Conversion, Edit, OnProgress, Request, Told, Unit
from wvindex.converting.staged import Constant, Content, StagedDirectory, require_checkpoint, require_place
from wvindex.errors import UsageError
from wvindex.limits import MAX_JSON_BYTES, PROCESS_BYTES
from wvindex.sources.files import is_directory, read_beside
from wvindex.sources.orbax_arrays import RUNTIME_BYTES, LeafArray, context, open_arrays
from wvindex.sources.orbax_metadata import METADATA, OCDBT_MANIFEST, is_orbax, locate, read_tree
from wvindex.sources.strict_json import parse_object
from wvindex.store.durable import fsync_paths, make_directory
from wvindex.store.staging import SOURCES

KIND: Final = "maxtext"

HAS_OPTIMIZER: Final = True

_BUFFER: Final = 16 << 20


def claims(path: Path) -> bool:
    """Whether a directory is an Orbax checkpoint."""
    return is_directory(path) and is_orbax(path)


@contextmanager
def planned(request: Request) -> Iterator[OrbaxConversion]:
    """Open a checkpoint and plan; see `wvindex.converting.plan.Converter`."""
    require_place(request.target, _replaceable(request))
    yield OrbaxConversion(request)


def _replaceable(request: Request) -> Callable[[Path], None]:
    return partial(
        require_checkpoint, overwrite=request.overwrite, kind="an Orbax checkpoint", is_kind=claims
    )


class OrbaxConversion:
    """A checkpoint that is open, and what every file of the result is made of.

    Attributes
    ----------
    plan : Conversion
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        root = Path(os.path.realpath(request.source))
        item = locate(root)
        self._inside = "" if item == root else f"{item.relative_to(root).as_posix()}/"
        self._item = item
        self._files = all_files(root)
        self._tree = read_tree(item)
        self._shared = context()
        arrays = open_arrays(self._tree, item, self._shared)
        self._values = SourceValues(self._tree, self._shared)
        self._drops = self._choose(arrays)
        kept = [array for array in arrays if not self._drops(array.leaf.path)]
        self._steps = steps(kept, request.direction, item)
        self._gone = {array.leaf.name for step in self._steps for array in step.inputs}
        self._made = [one for step in self._steps for one in step.outputs]
        self._metadata = {one.name: new_metadata(self._values, one) for one in self._made}
        self._copied = [array for array in kept if array.leaf.name not in self._gone]
        self._keys = {array.leaf.name: self._values.keys(array.leaf.name) for array in kept}
        self._chunks = self._found_chunks(kept)
        self._require_memory()
        dropped = [array for array in arrays if self._drops(array.leaf.path)]
        self._contents, edits = self._documents([array.leaf.name for array in dropped])
        self.plan = Conversion(
            kind=KIND,
            direction=request.direction,
            source=str(request.source),
            target=str(request.target),
            units=tuple(self._units(dropped)),
            edits=tuple(edits),
            carried=tuple(self._carried()),
            notes=self._notes(),
        )

    def _found_chunks(self, kept: Sequence[LeafArray]) -> dict[str, tuple[LeafArray, Region]]:
        """Give what each key that is copied is; where every chunk is stored, none may be missing."""
        chunks: dict[str, tuple[LeafArray, Region]] = {}
        for array in kept:
            expected = chunk_keys(array, self._values.metadata(array.leaf.name), self._item)
            if self._tree.fill_is_stored:
                require_chunks(array, expected, self._keys[array.leaf.name], self._item)
            if array.leaf.name not in self._gone:
                chunks |= {key: (array, region) for key, region in expected.items()}
        return chunks

    def _require_decodable(self, key: str) -> None:
        """Decode what was copied from a key, if it is a chunk's: a damaged one is not carried on."""
        if key in self._chunks:
            require_decodable(*self._chunks[key])

    def _choose(self, arrays: Sequence[LeafArray]) -> Callable[[Path_], bool]:
        """Tell which leaves are left out; where there are moments of a down-projection, it must be said."""
        state = [array for array in arrays if is_optimizers(array.leaf.path)]
        choice = self._request.optimizer
        if choice is None and state:
            touched = [array for array in state if place_of(array.leaf.path) is not None]
            raise UsageError(
                "the checkpoint has an optimizer's state: say what becomes of it",
                file=self._item,
                field="optimizer",
                expected="concat (moments go as their parameters do) or drop (no optimizer's state)",
                found=f"{len(state)} leaves, such as {(touched or state)[0].leaf.name}",
            )
        return is_optimizers if choice == "drop" else lambda path: False

    def _require_memory(self) -> None:
        """Refuse where the largest chunk cannot be held with what is made of it."""
        chunks = [
            2 * (array.value_nbytes if self._tree.ocdbt else array.chunk_nbytes) for array in self._copied
        ]
        for one in self._made:
            written, _ = written_shapes(self._metadata[one.name])
            sizes = (min(n, size) for n, size in zip(one.shape, written, strict=True))
            chunks.append(
                3 * math.prod(sizes) * one.model.encoding.type_size
                + 2 * sum(piece.array.chunk_nbytes for piece in one.pieces)
            )
        least = PROCESS_BYTES + RUNTIME_BYTES + _BUFFER + max(chunks, default=0)
        require_budget(self._request.max_memory, least, "this checkpoint's chunks cannot be held")

    def _units(self, dropped: Sequence[LeafArray]) -> Iterator[Unit]:
        for array in self._copied:
            name = (array.leaf.name,)
            yield Unit(operation="copy", inputs=name, outputs=name, nbytes=array.nbytes)
        for step in self._steps:
            yield Unit(
                operation="fuse" if self._request.direction == "fuse" else "split",
                inputs=tuple(array.leaf.name for array in step.inputs),
                outputs=tuple(one.name for one in step.outputs),
                nbytes=sum(one.nbytes for one in step.outputs),
            )
        for array in dropped:
            yield Unit(operation="drop", inputs=(array.leaf.name,), outputs=(), nbytes=0)

    def _documents(self, dropped: Sequence[str]) -> tuple[dict[str, list[Content]], list[Edit]]:
        """Rewrite what stands beside the arrays."""
        leaves = Leaves(self._steps, fuses=self._request.direction == "fuse", drops=self._drops)
        names = replacements(self._steps, dropped)
        layouts = {name: written_shapes(metadata) for name, metadata in self._metadata.items()}
        documents = {METADATA: spaced(rewritten_tree(self._tree.document, leaves))}
        sharding = self._document(SHARDING)
        if sharding is not None:
            documents[SHARDING] = compact(rewritten_sharding(sharding, names))  # written through TensorStore
        for name in self._files:
            inner = name.removeprefix(self._inside)
            if name.startswith(self._inside) and inner.startswith(f"{ARRAY_METADATAS}/"):
                found = self._document(inner)
                if found is not None:
                    documents[inner] = spaced(rewritten_array_metadatas(found, names, layouts))
        contents: dict[str, list[Content]] = {
            f"{self._inside}{name}": [Constant(data)] for name, data in documents.items()
        }
        what = f"{len(self._made)} leaves in the place of {len(self._gone)}"
        edits = [Edit(file=name, what=what) for name in contents]
        fused = self._request.direction == "fuse"
        for name, text in settings(self._files.values()):
            new = rewritten_settings(name, text, fused=fused)
            if new != text:
                contents[name] = [Constant(new.encode())]
                edits.append(Edit(file=name, what=f"fused_mla_lora_proj: {fused}"))
        return contents, edits

    def _document(self, name: str) -> dict[str, Any] | None:
        data = read_beside(self._item, name, MAX_JSON_BYTES)
        return None if data is None else parse_object(data, file=self._item / name)

    def _carried(self) -> dict[str, SourceFile]:
        """Give the files that are copied as they are: none that is rewritten, and no part of a database."""
        leaves = {f"{self._inside}{leaf.name}" for leaf in self._tree.leaves if leaf.is_array}
        kept = {f"{self._inside}{array.leaf.name}" for array in self._copied}
        found = {}
        for name, file in self._files.items():
            inner = name.removeprefix(self._inside) if name.startswith(self._inside) else None
            if name in self._contents or (inner is not None and self._tree.ocdbt and is_of_database(inner)):
                continue
            leaf = next((part for part in _parents(name) if part in leaves), None)
            if leaf is None or (leaf in kept and not self._tree.ocdbt):
                found[name] = file
        return found

    def _notes(self) -> tuple[str, ...]:
        """Say where the way back will not give the same chunks: columns are split, or halves differ."""
        fused = self._request.direction == "fuse"
        notes = [
            f"{name} says or leaves out fused_mla_lora_proj in a way that is not rewritten: set it to {fused}"
            for name, text in settings(self._files.values())
            if is_left_unsaid(name, text, fused=fused)
        ]
        changed = rechunked(self._steps)
        if changed is not None:
            notes.append(
                f"{changed.leaf.name} is in chunks of {changed.chunk_shape}: the way back gives the same "
                "values, in other chunks"
            )
        return tuple(notes)

    def write(self, progress: OnProgress) -> None:
        """Write every leaf and every file, and give the directory its name; see `Planned`."""
        carried = self._carried()
        batches = self._batches()
        files: dict[str, Sequence[Content]] = {name: [file] for name, file in carried.items()}
        files |= self._contents
        total = sum(one.nbytes for contents in files.values() for one in contents)
        total += sum(batch.nbytes for batch in batches)
        report = Told(total, progress)
        with StagedDirectory(
            self._request.target,
            self._identity(),
            require_replaceable=_replaceable(self._request),
            buffer_bytes=_BUFFER,
            restart=self._request.restart,
        ) as staged:
            staged.require_space(sum(file.nbytes for file in self._files.values()))
            for name, contents in files.items():
                staged.write(name, contents, partial(report, name))
                self._require_decodable(name.removeprefix(self._inside))
            for batch in batches:
                self._write_batch(staged, batch, report)
            if self._tree.ocdbt:
                self._merge(staged, batches)
            for file in self._files.values():
                file.require_unchanged()
            staged.publish()

    def _batches(self) -> list[Batch]:
        if not self._tree.ocdbt:
            return [Batch(f"{self._inside}{one.name}", one, (), one.nbytes) for one in self._made]
        copied = [(key, nbytes) for array in self._copied for key, nbytes in self._sized(array)]
        return list(databases(self._inside, copied, self._made))

    def _sized(self, array: LeafArray) -> Iterator[tuple[bytes, int]]:
        """Give a leaf's keys with about the bytes of each."""
        found = self._keys[array.leaf.name]
        yield from ((key, -(-array.nbytes // len(found))) for key in found)

    def _write_batch(self, staged: StagedDirectory, batch: Batch, report: Callable[[str, int], None]) -> None:
        name = batch.made.name if batch.made is not None else batch.directory
        if staged.is_kept(batch.directory):
            report(name, batch.nbytes)
            return
        directory = staged.begin_directory(batch.directory)
        inside = directory if self._tree.ocdbt else directory.parent
        target = TargetValues(inside, ocdbt=self._tree.ocdbt, zarr3=self._tree.zarr3, shared=self._shared)
        if batch.made is not None:
            target.write(batch.made, self._metadata[batch.made.name], partial(report, name))
        else:
            target.copy(self._values, batch.keys)
            for key in batch.keys:
                self._require_decodable(key.decode(errors="replace"))
            report(name, batch.nbytes)
        staged.keep(batch.directory)

    def _merge(self, staged: StagedDirectory, batches: Sequence[Batch]) -> None:
        directory = staged.path(self._inside.rstrip("/"))
        make_directory(directory)
        merge([staged.path(batch.directory) for batch in batches], directory, self._shared)
        fsync_paths([directory / OCDBT_MANIFEST, *(file for file in (directory / "d").iterdir())])

    def _identity(self) -> dict[str, Any]:
        """Give what tells this conversion from others."""
        digest = hashlib.sha256(repr(self.plan.units).encode())
        return {
            "generator": GENERATOR,
            SOURCES: identities(self._files),
            "options": {"direction": self._request.direction, "optimizer": self._request.optimizer},
            "plan_sha256": digest.hexdigest(),
        }


def _parents(name: str) -> Iterator[str]:
    """Give the directories that a file is in, by their names below the root."""
    parts = name.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))
