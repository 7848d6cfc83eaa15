"""What is fuzzed: the header parsers, what is made of a configuration, and the catalog reader."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.hostile import gguf_faults, model_faults, safetensors_faults, store_faults
from tests.hostile.mutate import BINARY, TEXT
from tests.support.arrays import MemoryArray
from tests.support.layouts import layout
from tests.support.recipes import RECIPES
from tests.support.safetensors_bytes import entry, safetensors
from wvindex.errors import CatalogError
from wvindex.query.database import Store
from wvindex.sources.base import Source
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import LENGTH_BYTES
from wvindex.store.catalog import parse_catalog
from wvindex.store.layout import ChunkGrid, chunk_rows
from wvindex.store.metadata import array_metadata, dumps, require_agreement
from wvindex.transform.plan import plan_source

_LARGEST_SEED: Final = 100_000
_ROWS_READ: Final = 4
_END: Final = re.compile(rb'"data_offsets": *\[ *\d{1,4} *, *(\d{1,4}) *\]')


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes
    ----------
    sound : tuple of bytes
        Inputs that are accepted: changed, they reach what comes after the first check.
    unsound : tuple of bytes
        The corpus's faults.
    feed : callable
        Reads the bytes; may write below the directory that it is given.
    kinds : tuple of str
        Of changes that reach far.
    """

    sound: tuple[bytes, ...]
    unsound: tuple[bytes, ...]
    feed: Callable[[bytes, Path], None]
    kinds: tuple[str, ...] = BINARY


def targets() -> dict[str, Target]:
    """Give every target with its seeds; makes small stores for the catalog's."""
    gguf_sound = gguf_faults.VALID_FILES | model_faults.VALID_FILES
    tensors = _seeds(safetensors_faults.VALID_FILES)
    faulty = _seeds(safetensors_faults.FILES)
    sound, unsound = _catalogs()
    return {
        "gguf": Target(_seeds(gguf_sound), _seeds(model_faults.FILES | gguf_faults.FILES), _gguf),
        "safetensors": Target(tensors, faulty, _safetensors),
        "safetensors-json": Target(_texts(tensors), _texts(faulty), _safetensors_json, TEXT),
        "config": Target(tuple(map(_config_seed, RECIPES)), (), _config, TEXT),
        "catalog": Target(sound, unsound, _catalog, TEXT),
        "array": Target(tuple(map(_array_seed, store_faults.ARRAYS.values())), (), _array, TEXT),
    }


def _seeds(files: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Give the files of the corpus; not those that are only cut short, for cutting is a mutation."""
    found = (data for name, data in files.items() if not name.startswith("cut-at"))
    return tuple(data for data in found if len(data) <= _LARGEST_SEED)


def _texts(files: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Give the JSON of safetensors headers, as long as the header says that it is."""
    return tuple(
        data[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")] for data in files
    )


def _catalogs() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    with tempfile.TemporaryDirectory() as scratch:
        stores = store_faults.make_stores(Path(scratch) / "stores")
        paths = [path / store_faults.CATALOG for path in stores.values()]
        unsound = dict.fromkeys(p.read_bytes() for p in paths if p.is_file() and not p.is_symlink())
        sound = (Path(scratch) / "stores" / "sound.zarr" / store_faults.CATALOG).read_bytes()
    return (sound,), tuple(unsound)


def _try_source(source: Source) -> None:
    """Do what opening, planning and building do, short of writing."""
    source.config()
    source.tokenizer()
    for mla in ("absorb", "keep"):
        planned = plan_source(source, mla=mla)
        str(planned)
    for operation in planned.operations:
        rows, spec = operation.rows, operation.spec
        n_rows = min(spec.n_rows, _ROWS_READ)
        rows.read_rows(0, n_rows, memoryview(bytearray(n_rows * spec.row_bytes)))


def _gguf(data: bytes, directory: Path) -> None:
    (directory / "m.gguf").write_bytes(data)
    with GGUFSource(directory / "m.gguf") as source:
        _try_source(source)


def _safetensors(data: bytes, directory: Path) -> None:
    (directory / "m.safetensors").write_bytes(data)
    with SafetensorsSource(directory / "m.safetensors") as source:
        _try_source(source)


def _safetensors_json(text: bytes, directory: Path) -> None:
    """Put a true length before a header, and as much data after it as it asks for, within reason."""
    ends = [int(end) for end in _END.findall(text)]
    _safetensors(safetensors(text, bytes(max(ends, default=0))), directory)


@cache
def _model(name: str) -> bytes:
    """Give the header of a recipe's model.safetensors, and how long the file is."""
    header, end = {}, 0
    for key, fill in layout(RECIPES[name].config).items():
        start, size = end, 2
        for dim in fill.shape:
            size *= dim
        end = start + size
        header[key] = entry("BF16", fill.shape, start, end)
    return safetensors(header, b"") + end.to_bytes(LENGTH_BYTES, "little")


def _config_seed(name: str) -> bytes:
    return f"{name}\n{json.dumps(dict(RECIPES[name].config))}".encode()


def _config(data: bytes, directory: Path) -> None:
    """Open a model whose weights are zeros, a sparse file, with a configuration of one's choice."""
    name, _, text = data.partition(b"\n")
    recipe = name.decode("latin-1")
    model = _model(recipe if recipe in RECIPES else "llama")
    header, n_bytes = model[:-LENGTH_BYTES], int.from_bytes(model[-LENGTH_BYTES:], "little")
    checkpoint = directory / "config"
    checkpoint.mkdir(exist_ok=True)
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + n_bytes)
    (checkpoint / "config.json").write_bytes(text)
    with SafetensorsSource(checkpoint) as source:
        _try_source(source)


class _NoRows:
    """A RowReader that nobody asks."""

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        raise AssertionError

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        raise AssertionError


def _catalog(data: bytes, directory: Path) -> None:
    catalog = parse_catalog(data, file=directory / "catalog.json")
    for array in catalog.arrays.values():
        for index in {0, array.grid.n_chunks - 1} if array.grid.n_chunks else ():
            array.grid.name(index)
            array.grid.chunk_nbytes(index)
    catalog.to_json()
    db = Store(
        directory, catalog.config, {key: (array.spec, _NoRows()) for key, array in catalog.arrays.items()}
    )
    db.select("*.experts.*")
    list(db.layers[:])


def _grid(array: MemoryArray) -> ChunkGrid:
    return ChunkGrid(array.spec, chunk_rows(array.spec, 1500))


def _array_seed(array: MemoryArray) -> bytes:
    return dumps(array_metadata(array.spec, _grid(array)))


def _array(data: bytes, directory: Path) -> None:
    """Hold an array's document against what the catalog says of an array; it may be right."""
    for array in store_faults.ARRAYS.values():
        with suppress(CatalogError):
            require_agreement(data, array.spec, _grid(array), file=directory / "zarr.json")
