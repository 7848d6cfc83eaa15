"""Pictures of tables and tensors: bars of characters for a terminal, PNG and SVG through matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UsageError
from wvindex.extras import install_hint
from wvindex.inspection.digit_kernels import bins_kernel
from wvindex.inspection.scan import Parts
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values
from wvindex.store.outputs import output_file, require_output

FORMATS: Final = (".png", ".svg")
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Bars:
    """Numbers with a label each.

    Attributes
    ----------
    title : str
    labels : tuple of str
    values : tuple of float
        NaN where there is none.
    """

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


def histogram(tensor: Tensor, low: float, high: float, n_bins: int = 64) -> NDArray[np.int64]:
    """Count a tensor's finite values within [low, high] in equal bins; the last one includes `high`.

    Returns
    -------
    array of int64, shape (n_bins,)
        All in the first bin where `low` is `high`.
    """
    parts = Parts(lambda: np.zeros(n_bins, np.int64))
    count = bins_kernel()

    def consume(first_row: int, values: Values) -> None:
        counts = parts.take()
        count(values.reshape(-1), low, high, counts)
        parts.give(counts)

    tensor.stream(consume)
    return sum(parts.all(), np.zeros(n_bins, np.int64))


def histogram_bars(tensor: Tensor, low: float, high: float, n_bins: int) -> Bars:
    """Give a histogram as bars, labelled by the least value of each bin."""
    counts = histogram(tensor, low, high, n_bins)
    edges = np.linspace(low, high, n_bins + 1)[:-1]
    title = f"{tensor.key}: {int(counts.sum())} values from {low:.4g} to {high:.4g}"
    return Bars(title, tuple(f"{edge:.4g}" for edge in edges), tuple(map(float, counts)))


def text_bars(bars: Bars, width: int) -> str:
    """Draw bars to the right of their labels, a line each, from zero; numbers stand behind them."""
    numbers = [_number(value) for value in bars.values]
    widest = max((len(label) for label in bars.labels), default=0)
    label_width = min(widest, max(width // 2, 8))
    room = max(width - label_width - max((len(n) for n in numbers), default=0) - 3, 8)
    most = max((abs(value) for value in bars.values if math.isfinite(value)), default=0.0)
    lines = [bars.title]
    for label, value, number in zip(bars.labels, bars.values, numbers, strict=True):
        eighths = round(8 * room * abs(value) / most) if most and math.isfinite(value) else 0
        drawn = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
        lines.append(f"{_shortened(label, label_width):<{label_width}} {drawn:<{room}} {number}".rstrip())
    return "\n".join(lines)


def _shortened(label: str, width: int) -> str:
    """Leave out the middle of a label that is too long: a key's layer and role stand at its ends."""
    if len(label) <= width:
        return label
    end = (width - 1) // 2
    return f"{label[: width - 1 - end]}…{label[len(label) - end :]}"


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def require_picture(file: str | Path, *, overwrite: bool = False) -> Path:
    """Give the path of a picture that can be written, before anything is computed for it.

    Raises
    ------
    UsageError
        If the file's name ends neither in ``.png`` nor in ``.svg``, or matplotlib is not installed.
    StoreError, TargetExists
        As `wvindex.store.outputs.require_output`.
    """
    path = Path(file)
    if path.suffix.lower() not in FORMATS:
        raise UsageError("no such picture", file=path, field="plot", expected=" or ".join(FORMATS))
    _matplotlib("matplotlib.figure")
    return require_output(path, overwrite=overwrite)


def write_bars(bars: Bars, file: str | Path, *, overwrite: bool = False) -> None:
    """Write bars to a PNG or SVG file: whole, or not at all; raises as `require_picture`."""
    target = require_picture(file, overwrite=overwrite)
    figure_class = _matplotlib("matplotlib.figure").Figure
    figure = figure_class(figsize=(8, max(2.0, 0.22 * len(bars.labels) + 1)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars.labels))
    axes.barh(places, [0.0 if math.isnan(value) else value for value in bars.values], color="#4269d0")
    axes.set_yticks(places, bars.labels, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_title(bars.title, fontsize=9)
    with output_file(target, overwrite=overwrite) as path:
        figure.savefig(path, dpi=150)


def table_bars(title: str, labels: Sequence[str], values: Sequence[Any]) -> Bars:
    """Give a column of a table as bars; what is no number is left empty."""
    numbers = [float(v) if isinstance(v, int | float) else math.nan for v in values]
    return Bars(title, tuple(labels), tuple(numbers))


def _matplotlib(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"pictures need matplotlib: {install_hint('matplotlib')}; --plot without a file draws here",
            field="plot",
        ) from error
