"""wvindex stores of the kept form: to the store that a build of the other form would have written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from wvindex.arch.keys import FUSED_LATENT, LATENT_DOWN, layer_key, split_layer
from wvindex.build_guards import GENERATOR, require_space
from wvindex.building import write_arrays
from wvindex.converting.plan import Conversion, OnProgress, Request, Unit
from wvindex.converting.stored_rows import StoredRows
from wvindex.errors import MetadataError, UnsupportedError
from wvindex.formats.arrays import ArraySpec, RowReader, part_spec
from wvindex.formats.ledger import LedgerEntry
from wvindex.limits import MAX_JSON_BYTES
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.links import LinkedFiles, LinkedReader, linked_files
from wvindex.store.metadata import CATALOG_JSON
from wvindex.store.objects import Objects
from wvindex.store.reader import ChunkReader, is_store, open_finished, read_files
from wvindex.store.staging import SOURCES
from wvindex.store.target import require_target
from wvindex.store.writer import StoreWriter
from wvindex.transform.fuse import fused_rows, fused_spec, require_fusible, widths_of
from wvindex.transform.plan import FUSED_OPTION, Operation, reading_order
from wvindex.transform.scales import SUFFIX

KIND: Final = "store"

HAS_OPTIMIZER: Final = False

_UP: Final = frozenset(f"self_attn.{name}_proj.weight" for name in ("q_b", "kv_b", "k_b", "v_b"))


def claims(path: Path) -> bool:
    """Whether a wvindex store stands at a path."""
    return is_store(path)


@contextmanager
def planned(request: Request) -> Iterator[StoreConversion]:
    """Open a store and plan; see `wvindex.converting.plan.Converter`."""
    require_target(request.target, overwrite=request.overwrite)
    objects, catalog = open_finished(request.source)
    try:
        files = linked_files(objects, catalog)
        try:
            yield StoreConversion(objects, catalog, files, request)
        finally:
            files.close()
    finally:
        objects.close()


class StoreConversion:
    """A store that is open, and the arrays of the result.

    Attributes
    ----------
    plan : Conversion
    """

    def __init__(self, objects: Objects, catalog: Catalog, files: LinkedFiles, request: Request) -> None:
        self._objects = objects
        self._catalog = catalog
        self._files = files
        self._request = request
        self._widths = widths_of(catalog.config)
        self._becomes: dict[str, tuple[ArraySpec, ...]] = {}
        self._units: list[Unit] = []
        operations = self._fused() if request.direction == "fuse" else self._split()
        for key, entry in catalog.arrays.items():
            if key not in self._becomes:
                operations.append(Operation(entry.spec, self._rows(entry)))
                self._unit("copy", (key,), (entry.spec,))
        self._operations = tuple(sorted(operations, key=lambda one: reading_order(one.spec.key)))
        linked = sum(entry.link is not None for entry in catalog.arrays.values())
        notes = (f"{linked} arrays are linked: their bytes are copied",) if linked else ()
        self.plan = Conversion(
            kind=KIND,
            direction=request.direction,
            source=str(request.source),
            target=str(request.target),
            units=tuple(self._units),
            carried=catalog.files,
            notes=notes,
        )

    def write(self, progress: OnProgress) -> None:
        """Write the store; see `Planned`. It grows in ``<target>.building/``, as a build does."""
        writer = StoreWriter(
            self._request.target,
            overwrite=self._request.overwrite,
            identity=self._identity(),
            restart=self._request.restart,
            what="conversion",
        )
        with writer:
            require_space(self._operations, writer, {})
            arrays = write_arrays(self._operations, writer, {}, self._request.max_memory, progress)
            for path, data in read_files(self._objects, self._catalog, self._catalog.files).items():
                writer.add_file(path, data)
            writer.finish(
                replace(
                    self._catalog,
                    generator=GENERATOR,
                    options=self._options(),
                    ledger=tuple(self._line(line) for line in self._catalog.ledger),
                    arrays=arrays,
                    links=(),
                )
            )

    def _fused(self) -> list[Operation]:
        """Join the halves of every layer that has them.

        Raises
        ------
        UnsupportedError
            If there is none, or their bytes cannot stand one under another.
        MetadataError
            If a half is missing.
        """
        found: dict[str, list[ArrayEntry]] = {}
        for layer, kind in self._layers(LATENT_DOWN):
            keys = [layer_key(layer, f"{module}.{kind}") for module in LATENT_DOWN]
            missing = [key for key in keys if key not in self._catalog.arrays]
            if missing:
                raise MetadataError(
                    "one half of a down-projection is missing",
                    file=self._request.source,
                    tensor=next(key for key in keys if key not in missing),
                    expected=missing[0],
                    found="nothing",
                )
            found[layer_key(layer, kind)] = [self._catalog.arrays[key] for key in keys]
        if not found:
            raise self._nothing("unfused down-projections, which mla='keep' stores")
        self._require_every({layer for layer, _ in self._layers(LATENT_DOWN)})
        return [self._joined(halves) for halves in found.values()]

    def _require_every(self, layers: Set[int]) -> None:
        """Refuse a layer with up-projections of low rank and without down-projections."""
        for key in self._catalog.arrays:
            layer, role = split_layer(key)
            if role in _UP and layer not in layers:
                raise MetadataError(
                    "both down-projections of a layer are missing",
                    file=self._request.source,
                    tensor=key,
                    expected=" and ".join(layer_key(layer or 0, module) for module in LATENT_DOWN),
                    found="neither",
                )

    def _joined(self, halves: list[ArrayEntry]) -> Operation:
        specs = [entry.spec for entry in halves]
        rows = self._widths[0], self._widths[1] + self._widths[2]
        for spec, expected in zip(specs, rows, strict=True):
            if spec.shape[0] != expected:
                raise MetadataError(
                    "a down-projection does not fit the configuration",
                    file=self._request.source,
                    tensor=spec.key,
                    field="q_lora_rank, kv_lora_rank, qk_rope_head_dim",
                    expected=f"{expected} rows",
                    found=spec.shape,
                )
        require_fusible(specs)
        spec = fused_spec(specs, self._widths)
        joined = fused_rows([self._rows(entry) for entry in halves], vectors=len(spec.shape) == 1)
        self._becomes |= {half.key: (spec,) for half in specs}
        self._unit("fuse", tuple(half.key for half in specs), (spec,))
        return Operation(spec, joined)

    def _split(self) -> list[Operation]:
        """Take every fused array apart.

        Raises
        ------
        UnsupportedError
            If there is none, or a part begins within a block of FP8 scales.
        """
        operations = []
        for layer, kind in self._layers((FUSED_LATENT,)):
            entry = self._catalog.arrays[layer_key(layer, f"{FUSED_LATENT}.{kind}")]
            parts = [(part_spec(entry.spec, part), part.rows[0]) for part in entry.spec.parts]
            block = entry.spec.encoding.scale_block
            if block is not None and any(first % block[0] for _, first in parts):
                raise UnsupportedError(
                    "a part of a fused array begins within a block of FP8 scales",
                    file=self._request.source,
                    tensor=entry.spec.key,
                    field="q_lora_rank",
                    expected=f"a multiple of {block[0]}",
                    found=parts[-1][1],
                )
            reader = self._reader(entry)
            operations += [Operation(spec, StoredRows(spec, reader, first)) for spec, first in parts]
            specs = tuple(spec for spec, _ in parts)
            self._becomes[entry.spec.key] = specs
            self._unit("split", (entry.spec.key,), specs)
        if not operations:
            raise self._nothing("fused down-projections")
        return operations

    def _layers(self, modules: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """Give the layer and the kind (weight, bias) of every array of some modules, each once."""
        seen = dict.fromkeys(
            (layer, role.rpartition(".")[2])
            for layer, role in map(split_layer, self._catalog.arrays)
            if role.rpartition(".")[0] in modules
        )
        yield from ((layer, kind) for layer, kind in seen if layer is not None)

    def _nothing(self, expected: str) -> UnsupportedError:
        fused = any(entry.spec.parts for entry in self._catalog.arrays.values())
        mla = self._catalog.options.get("mla", "another form")
        return UnsupportedError(
            "this store has nothing to convert",
            file=self._request.source,
            expected=expected,
            found="fused ones" if fused else f"none: it was built with mla={mla!r}",
        )

    def _unit(self, operation: Any, inputs: tuple[str, ...], made: tuple[ArraySpec, ...]) -> None:
        self._units.append(
            Unit(
                operation=operation,
                inputs=inputs,
                outputs=tuple(spec.key for spec in made),
                nbytes=sum(spec.nbytes for spec in made),
            )
        )

    def _rows(self, entry: ArrayEntry) -> StoredRows:
        return StoredRows(entry.spec, self._reader(entry))

    def _reader(self, entry: ArrayEntry) -> RowReader:
        if entry.link is not None:
            return LinkedReader(self._files, entry.spec, entry.link)
        return ChunkReader(self._objects, entry, check="chunks")

    def _options(self) -> Mapping[str, Any]:
        """Give the options of the build that would have written the result."""
        kept = {k: v for k, v in self._catalog.options.items() if k not in (FUSED_OPTION, "link")}
        return kept | ({FUSED_OPTION: True} if self._request.direction == "fuse" else {})

    def _line(self, line: LedgerEntry) -> LedgerEntry:
        """Give a ledger's line with the keys of the result; scales go where their codes go."""
        owner = line.tensor.removesuffix(SUFFIX) if line.reason == "scales" else line.tensor
        keys = [
            spec.key
            for key in line.keys
            for spec in self._becomes.get(key, (self._catalog.arrays[key].spec,))
            if key not in self._becomes or owner in spec.sources
        ]
        return replace(line, keys=tuple(dict.fromkeys(keys)))

    def _identity(self) -> dict[str, Any]:
        """Give what tells this conversion from others: the catalog has the checksum of every chunk."""
        data = self._objects.read_file(CATALOG_JSON, MAX_JSON_BYTES) or b""
        return {
            "generator": GENERATOR,
            SOURCES: [{"name": CATALOG_JSON, "sha256": hashlib.sha256(data).hexdigest()}],
            "options": {"direction": self._request.direction},
        }
