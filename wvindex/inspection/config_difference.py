"""Where two models' configurations differ, and whether that changes what they compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wvindex.arch.config import ModelConfig
from wvindex.inspection.aligned import Pair
from wvindex.inspection.table import Table

CONFIG: Final = ("field", "a", "b", "matters")

_NAMES: Final = frozenset(
    {"model_type", "family", "rope_type", "attention_form", "refuses_to_run"}
    | {"max_position_embeddings", "bos_token_id", "eos_token_ids", "num_nextn_predict_layers"}
)
"""Fields that name things, limit them, or say how they are stored: the same weights compute the same."""

_UNSAID: Final[tuple[object, ...]] = (None, (), [])
"""What stands for a field of which a source of an unknown family says nothing."""

_NEAR: Final = 1e-6
"""GGUF keeps numbers in float32, Hugging Face in decimal: they are equal within its rounding."""


def config_differences(a: ModelConfig, b: ModelConfig, pairs: Iterable[Pair]) -> Table:
    """Give a row for each field that differs: the columns `CONFIG`.

    ``matters`` where it changes what the model computes from its weights. Of a family that is not known, what
    a side does not say is not known either, and does not; of others, None is that there is none of it.
    Factors that a projection's output is multiplied by (`RowScale`) count as fields of their tensor.
    """
    left, right = _leaves(a.to_json()), _leaves(b.to_json())
    is_known = a.family is not None and b.family is not None
    rows = [
        {
            "field": name,
            "a": _text(x),
            "b": _text(y),
            "matters": _matters(name) and (is_known or (x not in _UNSAID and y not in _UNSAID)),
        }
        for name in dict.fromkeys((*left, *right))
        if not _same(x := left.get(name), y := right.get(name))
    ]
    for pair in pairs:
        if pair.a.row_scale != pair.b.row_scale:
            x, y = repr(pair.a.row_scale), repr(pair.b.row_scale)
            rows.append({"field": f"row_scale of {pair.key}", "a": x, "b": y, "matters": True})
    return Table.of_dicts("config", CONFIG, rows)


def _leaves(values: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{stem}{name}.")
        else:
            found[f"{stem}{name}"] = value
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return a is not None and b is not None and math.isclose(a, b, rel_tol=_NEAR)
    return bool(a == b)


def _matters(name: str) -> bool:
    return name.rpartition(".")[2] not in _NAMES


def _text(value: Any) -> str | None:
    """Write a value; of long lists the beginning."""
    if isinstance(value, list | tuple) and len(value) > 4:
        return f"[{', '.join(map(str, value[:3]))}, ... {len(value)} in all]"
    return None if value is None else str(value)
