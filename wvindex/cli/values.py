"""Values of a tensor as text, as JSON and as a NumPy file."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from wvindex.errors import UsageError
from wvindex.spelling import Item, items_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wvindex.query.lazy import Tensor

MAX_PRINTED: Final = 1 << 20
"""Values (or bytes) that are printed at most: some 15 MB of text. More is a file's business."""

_TILE_BYTES: Final = 64 << 20
"""Values of a whole tensor that are held while it is written to a file."""


def read_values(tensor: Tensor, index: tuple[Item, ...]) -> NDArray[Any]:
    """Read a selection, in a dtype that NumPy has of its own (`native`).

    Raises
    ------
    UsageError
        If it is too much to print.
    SelectionError
        If it does not fit the shape.
    """
    import numpy as np

    from wvindex.query.indexing import parse_index

    _require_printable(tensor, math.prod(parse_index(index, tensor.shape).shape), MAX_PRINTED)
    return native(np.asarray(tensor[index]))


def read_blocks(
    tensor: Tensor, index: tuple[Item, ...] | None, *, limit: int | None = None
) -> NDArray[np.uint8]:
    """Read the stored blocks of the rows that an index chooses, (n_rows, row_bytes).

    Raises
    ------
    UsageError
        If the index is more than rows, in one matrix of a stack, or chooses more than `limit` bytes.
    SelectionError
        If there is no such matrix.
    """
    index = index or ()
    while len(index) > 1 and isinstance(index[0], int) and tensor.ndim > 2:
        tensor, index = tensor.expert(index[0] + (len(tensor) if index[0] < 0 else 0)), index[1:]
    rows = _block_rows(tensor, index)
    if limit is not None:
        share = (rows.stop - rows.start) / max(len(tensor), 1) if rows is not None else 1
        _require_printable(tensor, int(tensor.nbytes * share), limit)
    return tensor.raw(rows)


def _block_rows(tensor: Tensor, index: tuple[Item, ...]) -> slice | None:
    """Give the indices [start, stop) of axis 0 that an index means; None for all of a tensor."""
    if not index:
        return None
    item = index[0]
    positions: range | None = None
    if isinstance(item, slice) and tensor.ndim and item.step in {None, 1}:
        positions = range(*item.indices(len(tensor)))
    elif isinstance(item, int) and tensor.ndim and -len(tensor) <= item < len(tensor):
        positions = range(item % len(tensor), item % len(tensor) + 1)
    if positions is None or len(index) > 1:
        raise UsageError(
            "stored blocks are chosen by rows alone",
            tensor=tensor.key,
            field="index",
            expected=f"an integer or a range of {tensor.shape}",
            found=items_text(index),
        )
    return slice(positions.start, max(positions.start, positions.stop))


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Widen what NumPy has no dtype of its own for (bfloat16, float8) to float32, which holds it exactly."""
    import numpy as np

    return values.astype(np.float32) if values.dtype.isbuiltin == 2 else values


def values_text(values: NDArray[Any], *, raw: bool, row_bytes: int | None = None) -> str:
    """Write values so that each reads back as it is, or blocks in hexadecimal, a row a line."""
    import numpy as np

    if not raw:
        return np.array2string(
            values, threshold=MAX_PRINTED + 1, floatmode="unique", max_line_width=_width(), separator=", "
        )
    cut = values.shape[1] if row_bytes is None else row_bytes
    more = " ..." if values.shape[1] > cut else ""
    return "\n".join(row[:cut].tobytes().hex(" ") + more for row in values)


def _width() -> int:
    """Give the width of the terminal; elsewhere a row is a line, however long."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def values_json(values: NDArray[Any] | None, *, raw: bool) -> Any:
    """Give values as nested lists, blocks as a string of hexadecimal digits a row."""
    if values is None:
        return None
    return [row.tobytes().hex() for row in values] if raw else values.tolist()


def write_npy(
    tensor: Tensor, index: tuple[Item, ...] | None, file: str, *, raw: bool, overwrite: bool = False
) -> None:
    """Write a selection, or the whole of a tensor piece by piece, to a NumPy file.

    Raises
    ------
    StoreError
        If the file cannot be written.
    TargetExists
        If it is there, and not to be replaced.
    """
    import numpy as np

    from wvindex.store.outputs import output_file, require_output

    require_output(file, overwrite=overwrite)  # before anything is read
    if raw:
        pieces = iter([read_blocks(tensor, index)])
        shape: tuple[int, ...] | None = None
    elif index is not None:
        pieces, shape = iter([native(np.asarray(tensor[index]))]), None
    else:
        pieces, shape = _tiles(tensor), tensor.shape
    first = next(pieces)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": first.shape if shape is None else shape,
    }
    with output_file(file, overwrite=overwrite) as path, path.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        out.write(np.ascontiguousarray(first).data)
        for piece in pieces:
            out.write(np.ascontiguousarray(piece).data)


def _tiles(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """Give a tensor by ranges of axis 0; one piece for what has none."""
    rows = len(tensor) if tensor.ndim else 0
    step = max(_TILE_BYTES * rows // max(tensor.size * 4, 1), 1)
    if rows <= step:
        yield native(tensor.read())
        return
    for start in range(0, rows, step):
        yield native(tensor.read(rows=(start, min(start + step, rows))))


def _require_printable(tensor: Tensor, count: int, limit: int) -> None:
    if count > limit:
        raise UsageError(
            "too much to print; --npy writes it to a file",
            tensor=tensor.key,
            expected=f"at most {limit}",
            found=count,
        )
