"""``wvindex.stats``: statistics of weights as a table, exact over all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Final, Literal

from wvindex.arch.keys import split_layer
from wvindex.errors import SpectrumNotFound, UsageError
from wvindex.inspection.collect import Compute, Grouping, Job, Progress, collect
from wvindex.inspection.experts import EXPERT, expert_rows
from wvindex.inspection.feature_norms import FEATURE, block_of, block_tensors, feature_rows, feed_forward_of
from wvindex.inspection.heads import HEAD, head_rows, head_tensors
from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import scan
from wvindex.inspection.selected import nothing_matches
from wvindex.inspection.spectrum import SPECTRUM, Kind, spectrum
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import (
    COLUMN,
    LAYER,
    ROLE,
    ROW,
    TENSOR,
    Advance,
    Row,
    column_rows,
    group_row,
    role_of,
    row_rows,
    summarize,
    tensor_row,
)
from wvindex.opening import open as open_any
from wvindex.query.choice import LayerChoice
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

By = Literal["tensor", "layer", "role", "head", "expert", "feature", "row", "column"]


def stats(
    source: Store | str | os.PathLike[str],
    selector: str | None = None,
    layers: LayerChoice = None,
    by: By = "tensor",
    *,
    role: str | None = None,
    spectrum: Kind | None = None,
    top: int = 8,
    keep: bool = True,
    progress: Progress | None = None,
) -> Table:
    """Take statistics of weights: exact over all of them, summed in float64, in bounded memory.

    ``count`` is of all values, ``nan`` and ``inf`` of those that are not finite; everything else is of the
    finite ones. ``std`` is of the population (``ddof=0``), ``kurtosis`` in excess of a normal
    distribution's, a quantile the smallest weight that at least its share of weights does not exceed
    (NumPy's ``inverted_cdf``), ``outliers`` weights whose magnitude is above 6 ``std``.

    Parameters
    ----------
    source : Store, path or URL
        A store, or a bare GGUF or safetensors checkpoint.
    selector : str, optional
        A glob for keys or aliases, as `Store.select` takes it; all tensors by default.
    layers : int, range, slice or several of them, optional
    by : {"tensor", "layer", "role", "head", "expert", "feature", "row", "column"}
        What a row of the table is. Layers and roles are taken over all values of their tensors; heads
        are those of whole layers whose attention is dense, or latent; experts those of stacks; features
        those of feed-forward blocks, all projections of which are read.
    role : str, optional
        A glob for what follows the layer in the key.
    spectrum : {"top", "full"}, optional
        Also singular values, the `top` largest, stable rank and effective rank: of each matrix for
        tensors, of each expert for experts. A stack as a whole has none.
    top : int
    keep : bool
        Whether to take what a store in a directory has in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``.

    Returns
    -------
    Table
        Rows in the order of the store.

    Raises
    ------
    UsageError
        If `by` or `spectrum` is none of these, or a spectrum is asked of neither tensors nor experts.
    SelectionError
        If `layers` is no choice of layers, or means none that there is, or nothing matches.
    UndecodableType
        If nobody decodes the encoding of a chosen tensor.
    """
    if by not in GROUPINGS:
        raise UsageError("no such table", field="by", expected=", ".join(GROUPINGS), found=by)
    if spectrum is not None and by not in _SPECTRAL:
        expected = " or ".join(f"by='{name}'" for name in _SPECTRAL)
        raise UsageError("a spectrum is a matrix's", field="spectrum", expected=expected, found=by)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        tensors = db.select(selector or "*", layer=layers, role=role)
        chosen = selector is not None or layers is not None or role is not None
        if chosen and not tensors:
            raise nothing_matches(db, selector=selector, layers=layers, role=role)
        jobs = [Job(by, GROUPINGS[by], tensors)]
        if spectrum is not None:
            jobs.append(spectrum_job(by, tensors, spectrum, top))
        found, notes = collect(db, jobs, keep=keep, progress=progress)
    columns = [column for job in jobs for column in job.grouping.columns]
    rows = [
        {name: value for part in parts for name, value in part.items()} for parts in zip(*found, strict=True)
    ]
    if spectrum is not None:
        notes += tuple(_not_found(rows, tensors))
    if spectrum is not None and by == "tensor" and any(tensor.ndim > 2 for tensor in tensors):
        notes += ("a stack is no matrix and has no singular values; by expert there are those of each",)
    return Table.of_dicts(f"{by}s", columns, rows, notes)


def columns_of(by: By, kind: Kind | None = None) -> tuple[str, ...]:
    """Give the columns of the table that `stats` would give, before anything is computed."""
    return GROUPINGS[by].columns + (SPECTRUM if kind is not None else ())


def _nbytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _tensor(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [tensor_row(tensor, summarize([tensor], advance)) for tensor in tensors]


def _layer(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [{"layer": split_layer(tensors[0].key)[0]} | group_row(tensors, summarize(tensors, advance))]


def _role(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [{"role": role_of(tensors[0].key)} | group_row(tensors, summarize(tensors, advance))]


def _heads(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    rows = head_rows(db, split_layer(tensors[0].key)[0] or 0)
    advance(2 * _nbytes(tensors))
    return rows


def _features(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    block = feed_forward_of(db, tensors)
    rows = feature_rows(block) if block else []
    advance(_nbytes(tensors))
    return rows


def _each(rows_of: Callable[[Tensor], list[Row]], passes: int) -> Compute:
    def compute(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
        rows = []
        for tensor in tensors:
            rows += rows_of(tensor)
            advance(passes * tensor.nbytes)
        return rows

    return compute


def _key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key


def _layer_name(db: Store, tensor: Tensor) -> str | None:
    number = split_layer(tensor.key)[0]
    return "" if number is None else str(number)


def _role_name(db: Store, tensor: Tensor) -> str | None:
    return role_of(tensor.key)


def _head_layer(db: Store, tensor: Tensor) -> str | None:
    """Give the layer of one of the tensors that its heads are read from."""
    number, role = split_layer(tensor.key)
    if number is None or not role.startswith("self_attn."):
        return None
    return str(number) if tensor.key in {one.key for one in head_tensors(db, number)} else None


def _head_tensors(db: Store, tensors: list[Tensor]) -> list[Tensor]:
    """Give all that the heads of a layer are read from, whichever of it was chosen."""
    return head_tensors(db, split_layer(tensors[0].key)[0] or 0)


def _geometry(db: Store) -> Mapping[str, Any]:
    return {} if db.config.mla is None else {"mla": asdict(db.config.mla)}


def _stack_key(db: Store, tensor: Tensor) -> str | None:
    """Give the key of a stack of experts; the factors of latent attention are stacks of heads."""
    is_attention = split_layer(tensor.key)[1].startswith("self_attn.")
    return tensor.key if tensor.ndim == 3 and len(tensor) and not is_attention else None


def _matrix_key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key if tensor.ndim > 1 else None


def spectrum_job(by: By, tensors: Sequence[Tensor], kind: Kind, top: int) -> Job:
    """Give the job whose rows are the columns that a spectrum adds to those of tensors or of experts."""
    rows_of, subject = _SPECTRAL[by]
    grouping = Grouping(SPECTRUM, _each(lambda tensor: rows_of(tensor, kind, top), 2), subject)
    name = f"spectrum-{kind}-{top}"
    return Job(name if by == "tensor" else f"{by}-{name}", grouping, tensors)


def _tensor_spectrum(tensor: Tensor, kind: Kind, top: int) -> list[Row]:
    if tensor.ndim != 2:
        return [{}]
    moments = Moments.of_state(scan(tensor).states[0]) if tensor.size else Moments()
    return [_spectrum_row(tensor, moments, kind, top)]


def _expert_spectra(stack: Tensor, kind: Kind, top: int) -> list[Row]:
    states = scan(stack, rows_per_group=max(math.prod(stack.shape[1:-1]), 1)).states
    moments = [Moments.of_state(state) for state in states]
    return [_spectrum_row(stack.expert(i), one, kind, top) for i, one in enumerate(moments)]


def _spectrum_row(matrix: Tensor, moments: Moments, kind: Kind, top: int) -> Row:
    if moments.nan or moments.inf:
        return {}
    try:
        return spectrum(matrix, moments, kind, top=top).to_row()
    except SpectrumNotFound:  # which spoils no other row: `_not_found` says whose it is
        return {}


def _not_found(rows: Iterable[Row], tensors: Iterable[Tensor]) -> Iterator[str]:
    """Tell of the finite matrices that have no spectrum all the same."""
    ranks = {tensor.key: tensor.ndim for tensor in tensors}
    for row in rows:
        is_matrix = "expert" in row or ranks[row["key"]] == 2
        if is_matrix and row.get("singular_values") is None and not (row.get("nan") or row.get("inf")):
            expert = f" expert {row['expert']}" if "expert" in row else ""
            place = f"{row['key']}{expert}"
            yield f"{place}: the largest singular values are not found, and it is too large to take all"


_SPECTRAL: Final[
    dict[str, tuple[Callable[[Tensor, Kind, int], list[Row]], Callable[[Store, Tensor], str | None]]]
] = {
    "tensor": (_tensor_spectrum, _key),
    "expert": (_expert_spectra, _stack_key),
}
"""What has singular values: the rows of them, and whose they are."""

GROUPINGS: Final[dict[str, Grouping]] = {
    "tensor": Grouping(TENSOR, _tensor, _key),
    "layer": Grouping(LAYER, _layer, _layer_name),
    "role": Grouping(ROLE, _role, _role_name),
    "head": Grouping(HEAD, _heads, _head_layer, reads=_head_tensors, options=_geometry),
    "expert": Grouping(EXPERT, _each(expert_rows, 2), _stack_key),
    "feature": Grouping(FEATURE, _features, block_of, 1, is_kept=False, reads=block_tensors),
    "row": Grouping(ROW, _each(row_rows, 1), _key, passes=1, is_kept=False),
    "column": Grouping(COLUMN, _each(column_rows, 1), _matrix_key, passes=1, is_kept=False),
}
"""What a row can be. A new table is one entry."""
