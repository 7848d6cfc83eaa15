"""Selections that mean nothing: a mistyped one is not to pass for a model without faults."""

from __future__ import annotations

from typing import Any

from wvindex.errors import SelectionError
from wvindex.query.database import Store


def nothing_matches(*stores: Store, **choice: Any) -> SelectionError:
    """Give the error of a choice of tensors, by the names of the parameters, that no tensor is of."""
    given = {name: value for name, value in choice.items() if value is not None}
    return SelectionError(
        "nothing matches",
        file=", ".join(str(db.path) for db in stores),
        field=", ".join(given),
        found=", ".join(map(str, given.values())),
    )
