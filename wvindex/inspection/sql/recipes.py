"""Queries that are asked often, kept as ``recipes/<name>.sql``: the first line, a comment, is the title."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from wvindex.errors import UsageError
from wvindex.inspection.table import Table


@dataclass(frozen=True)
class Recipe:
    """A saved query.

    Attributes
    ----------
    name : str
    title : str
    query : str
    """

    name: str
    title: str
    query: str


def recipe(name: str) -> Recipe:
    """Give a saved query.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    found = _all()
    if name not in found:
        raise UsageError("no such recipe", field="recipe", expected=", ".join(found), found=name)
    return found[name]


def sql_recipes() -> Table:
    """Give all saved queries.

    Returns
    -------
    Table
        ``recipe``, ``title``, ``query``.
    """
    rows = [{"recipe": one.name, "title": one.title, "query": one.query} for one in _all().values()]
    return Table.of_dicts("recipes", ("recipe", "title", "query"), rows)


def _all() -> dict[str, Recipe]:
    texts = {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8")
        for file in files("wvindex.inspection.sql").joinpath("recipes").iterdir()
        if file.name.endswith(".sql")
    }
    return {
        name: Recipe(name, text.partition("\n")[0].removeprefix("-- "), text)
        for name, text in sorted(texts.items())
    }
