"""The byte ranges of planned rows are the very bytes that the rows would give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import names
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.formats.encodings import BF16, ENCODINGS, F32, with_scale_block
from wvindex.sources.detect import open_source
from wvindex.transform.combine import AsVector, Cast, Concat, JoinedVectors, Slice, tensor_rows
from wvindex.transform.links import FileRange, byte_ranges
from wvindex.transform.plan import Operation, plan_source
from wvindex.transform.rows import Rows, SourceRows


def bytes_at(ranges: Iterable[FileRange]) -> bytes:
    return b"".join(one.file.read_bytes()[one.offset : one.offset + one.nbytes] for one in ranges)


def given(operation: Operation) -> tuple[bytes, bytes]:
    """Read all rows and scales of a planned array."""
    spec = operation.spec
    rows = bytearray(spec.n_rows * spec.row_bytes)
    operation.rows.read_rows(0, spec.n_rows, memoryview(rows))
    scales = bytearray(spec.nbytes - len(rows))
    if spec.scale_shape is not None:
        operation.rows.read_scales(0, spec.scale_shape[0], memoryview(scales))
    return bytes(rows), bytes(scales)


@pytest.mark.parametrize("mla", ["absorb", "keep"])
@pytest.mark.parametrize("name", names())
def test_ranges_hold_what_the_rows_give(name: str, mla: str, stores: Stores) -> None:
    paths = [stores.safetensors(name), stores.safetensors(name, "v5", "mixed", 2)]
    paths += [stores.gguf(name)] if name in names(gguf=True) else []
    for path in paths:
        with open_source(path) as source:
            found = 0
            for operation in plan_source(source, mla=mla).operations:
                ranges = byte_ranges(operation.rows)
                if ranges is not None:
                    found += 1
                    assert (bytes_at(ranges.rows), bytes_at(ranges.scales)) == given(operation)
        assert found


FILE = Path("memory.file")


class TestForms:
    """Each form of rows, by itself: tensors of a file in memory all begin at 0."""

    @pytest.fixture
    def source(self) -> MemorySource:
        return MemorySource(
            {
                "w": np.zeros((10, 4), np.float32),
                "v": np.zeros(6, np.float32),
                "codes": ("F8_E4M3", (2, 5, 8), np.zeros((2, 5, 8), np.uint8)),
                "scales": np.zeros((2, 2, 2), np.float32),
                "narrow": ("BF16", (2, 2, 2), np.zeros((2, 2, 2), np.uint16)),
                "none": np.zeros((0, 4), np.float32),
            }
        )

    def rows(self, source: MemorySource, name: str = "w", **changes: Any) -> Rows:
        return tensor_rows(source, source.info(name), **changes)

    def test_a_part_of_a_matrix(self, source: MemorySource) -> None:
        found = byte_ranges(self.rows(source, part=(3, 5)))
        assert found is not None
        assert found.rows == ((FILE, 48, 32),)
        assert found.scales == ()

    def test_neighbours_are_one_range_and_empty_ones_none(self, source: MemorySource) -> None:
        parts = [self.rows(source, part=part) for part in ((0, 2), (2, 5), (7, 8))]
        parts.insert(1, self.rows(source, "none"))
        found = byte_ranges(Concat(parts, stacked=False))
        assert found is not None
        assert found.rows == ((FILE, 0, 80), (FILE, 112, 16))

    def test_a_slice_of_several_parts(self, source: MemorySource) -> None:
        parts = [self.rows(source, part=part) for part in ((0, 2), (5, 8), (8, 10))]
        found = byte_ranges(Slice(Concat(parts, stacked=False), 1, 4))
        assert found is not None
        assert found.rows == ((FILE, 16, 16), (FILE, 80, 32))

    def test_parts_of_vectors(self, source: MemorySource) -> None:
        part = self.rows(source, "v", part=(2, 5))
        assert isinstance(part, AsVector)
        whole = self.rows(source, "v")
        found = byte_ranges(JoinedVectors((part, whole)))
        assert found is not None
        assert found.rows == ((FILE, 8, 12), (FILE, 0, 24))

    def test_one_expert_s_codes_and_scales(self, source: MemorySource) -> None:
        rows = self.rows(source, "codes", matrix=1, scales=source.info("scales"), scale_block=(3, 4))
        found = byte_ranges(Concat([rows, rows], stacked=True))
        assert found is not None
        assert found.rows == ((FILE, 40, 40), (FILE, 40, 40))
        assert found.scales == ((FILE, 16, 16), (FILE, 16, 16))

    def test_nothing_at_all(self, source: MemorySource) -> None:
        found = byte_ranges(self.rows(source, "none"))
        assert found is not None
        assert (found.rows, found.scales) == ((), ())

    def test_what_is_moved_or_worked_out_is_in_no_file(self, source: MemorySource) -> None:
        moved = self.rows(source, order=np.arange(10)[::-1])
        cast = Cast(self.rows(source), BF16)
        wide = self.rows(source, "codes", scales=source.info("narrow"), scale_block=(3, 4))
        lost = SourceRows(
            source, source.info("codes"), with_scale_block(ENCODINGS["F8_E4M3"], (3, 4)), 10, 8, 5
        )
        for rows in (moved, cast, Cast(self.rows(source), F32), wide, lost, Slice(wide, 0, 3)):
            assert byte_ranges(rows) is None
            assert byte_ranges(Concat([rows, rows], stacked=False)) is None
