"""The text of the tables and views that DuckDB is given."""

from __future__ import annotations

from typing import Final

from wvindex.inspection.sql.relations import Relation
from wvindex.inspection.sql.schema import Column, json_structure

SCHEMA: Final = "wvindex_known"
"""Where DuckDB's own tables stand, which SHOW TABLES does not list."""

KNOWN: Final = "known_"
"""Before the names of the tables there: no other table is named so."""

COMPUTE: Final = "wvindex_compute_"
"""Before the names of the functions that compute the rest of a row."""

ID: Final = "wvindex_id"


def known_columns(relation: Relation) -> list[Column]:
    """Give the columns of a table that is filled: the number of the row, and what headers tell."""
    return [Column(ID, "BIGINT", "number of the row, for what is computed of it"), *relation.known]


def table_name(relation: Relation) -> str:
    """Give the name of DuckDB's own table, which is no other table's name."""
    return f"{SCHEMA}.{KNOWN}{relation.name}"


def view_query(relation: Relation) -> str:
    """Give the query that a table's name stands for."""
    known = ", ".join(quoted_name(one.name) for one in relation.known)
    source = table_name(relation)
    if not relation.computed:
        return f"SELECT {known} FROM {source}"
    structure = json_structure(relation.computed)
    structure = f"[{structure}]" if relation.many else structure
    values = f"from_json({COMPUTE}{relation.name}({ID}), {quoted_text(structure)})"
    if relation.many:
        cells = ", ".join(f"wvindex_row.{quoted_name(one.name)}" for one in relation.computed)
        return f"SELECT {known}, {cells} FROM (SELECT *, unnest({values}) AS wvindex_row FROM {source})"
    # Each column by itself: what of a struct is not used, DuckDB does not always leave out.
    names = [quoted_name(one.name) for one in relation.computed]
    return f"SELECT {known}, {', '.join(f'({values}).{name} AS {name}' for name in names)} FROM {source}"


def quoted_name(name: str) -> str:
    """Write a name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Write a text in SQL."""
    return "'" + text.replace("'", "''") + "'"
