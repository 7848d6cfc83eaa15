"""What pages are put together from: sections, facts, tables, distributions; rich lays them out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any, Final, Literal

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from wvindex.inspection.distribution import Distribution, sparkline

WIDTH: Final = 80
"""Columns of a page off a terminal."""

INDENT: Final = 2
_GAP: Final = 2
_BAR: Final = 8
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_THOUSANDS: Final = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))

Row = Sequence[str | Text]


def to_text(renderable: RenderableType, width: int = WIDTH) -> str:
    """Lay out without colours, a line a row, no space at a line's end."""
    file = StringIO()
    Console(file=file, width=width, color_system=None, highlight=False, emoji=False).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def shown(text: str) -> Text:
    """Give text as it stands; what a terminal would obey is escaped."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return Text(text)


def section(title: str, *parts: RenderableType) -> Group:
    """Put a title above parts, and an empty line above it."""
    return Group(Text(), Text(title, style="bold"), *(Padding(part, (0, 0, 0, INDENT)) for part in parts))


def facts(pairs: Iterable[tuple[str, str]]) -> RichTable:
    """Lay out labels and texts; an empty label carries the text above on."""
    grid = RichTable.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(overflow="fold")
    for label, text in pairs:
        grid.add_row(shown(label), shown(text))
    return grid


def table(
    titles: Sequence[str], rows: Iterable[Row], *, left: Sequence[str] = (), whole: Sequence[str] = ()
) -> RichTable:
    """Lay out a table; a column in which nothing stands is left out.

    Parameters
    ----------
    titles : sequence of str
    rows : iterable of sequence of str or Text
    left : sequence of str
        Titles of columns of text, as the first is: to the left, and folded where there is no room.
    whole : sequence of str
        Titles of columns of text that are not folded.
    """
    cells = [[cell if isinstance(cell, Text) else shown(cell) for cell in row] for row in rows]
    places = [i for i, _ in enumerate(titles) if not i or any(row[i].plain for row in cells)]
    grid = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for i in places:
        is_text, is_whole = not i or titles[i] in (*left, *whole), titles[i] in whole
        justify: Literal["left", "right"] = "left" if is_text else "right"
        no_wrap = is_whole or not is_text
        title = titles[i].upper() if titles[i].isascii() else titles[i]  # 6σ is no 6Σ
        grid.add_column(title, justify=justify, no_wrap=no_wrap, overflow="fold")
    for row in cells:
        grid.add_row(*(row[i] for i in places))
    return grid


def distributions(rows: Iterable[tuple[str, Distribution | str, str]]) -> RichTable:
    """Lay out the spread of some numbers: a name, a distribution, what is the most; or words in its place."""
    titles = ("norms of", "least", "median", "most", "spread", "strongest")
    cells: list[Row] = []
    for name, one, most in rows:
        if isinstance(one, str):
            cells.append((name, "", "", "", one, most))
            continue
        numbers = [number(value) for value in (one.least, one.median, one.most)]
        cells.append((name, *numbers, Text(sparkline(one.histogram)), most))
    return table(titles, cells, left=("strongest",), whole=("norms of", "spread"))


def bar(value: float, most: float) -> Text:
    """Draw a number as a bar, the most being `_BAR` columns long."""
    if not (math.isfinite(value) and most > 0):
        return Text()
    eighths = round(8 * _BAR * value / most)
    return Text("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), style="cyan")


def number(value: Any) -> str:
    """Write a number with four significant digits; nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def few(value: float) -> str:
    """Write a number of bits."""
    return "" if math.isnan(value) else f"{value:.4g}"


def short(count: int) -> str:
    """Write a count with a letter for thousands, millions, billions: ``4.264 M``."""
    for size, letter in _THOUSANDS:
        if count >= size:
            return f"{count / size:.4g} {letter}"
    return str(count)


def listed(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Join names; a long list is cut."""
    cut = [f"and {len(names) - most} more"] if len(names) > most else []
    return between.join([*names[:most], *cut])
