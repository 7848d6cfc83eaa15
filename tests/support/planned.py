"""Plans of checkpoints in memory, and the values of what they would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource, Packed
from wvindex.formats.arrays import ArraySpec
from wvindex.transform.plan import Operation, Plan, plan_source
from wvindex.transform.rows import decoded

Tensors = Mapping[str, NDArray[Any] | Packed]


def plan_of(
    name: str,
    changes: Tensors | None = None,
    *,
    drop: tuple[str, ...] = (),
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """Plan a recipe's checkpoint whose tensors or configuration have been changed."""
    tensors: dict[str, Any] = dict(checkpoint(name).tensors) | dict(changes or {})
    for gone in drop:
        del tensors[gone]
    return plan_source(MemorySource(tensors, checkpoint(name).config | dict(config or {})), **options)


def operation(plan: Plan, key: str) -> Operation:
    """Give the operation that writes `key`."""
    [found] = [op for op in plan.operations if op.spec.key == key]
    return found


def spec(plan: Plan, key: str) -> ArraySpec:
    """Give the spec of the array `key`."""
    return operation(plan, key).spec


def values(plan: Plan, key: str) -> NDArray[np.float32]:
    """Give the decoded values of the array `key`."""
    op = operation(plan, key)
    return decoded(op.rows, 0, op.rows.n_rows).reshape(op.spec.shape)


def stored(plan: Plan, key: str) -> bytes:
    """Give the encoded rows of the array `key`."""
    op = operation(plan, key)
    out = bytearray(op.spec.n_rows * op.spec.row_bytes)
    op.rows.read_rows(0, op.spec.n_rows, memoryview(out))
    return bytes(out)


def require_whole_ledger(plan: Plan, tensors: list[str]) -> None:
    """Every source tensor once, each with the arrays that hold it or the reason why none does."""
    assert plan.refusals == ()
    assert [entry.tensor for entry in plan.ledger] == tensors
    written = {op.spec.key: op.spec for op in plan.operations}
    assert len(written) == len(plan.operations)
    for entry in plan.ledger:
        assert entry.keys or entry.reason == "config.rope", entry
        assert entry.reason in {None, "scales", "config.rope"}
        assert len(set(entry.keys)) == len(entry.keys)
        if entry.reason is None:
            assert all(entry.tensor in written[key].sources for key in entry.keys)
    for key, found in written.items():
        assert found.sources, key
        assert set(found.sources) <= {entry.tensor for entry in plan.ledger}
        assert all(key in entry.keys for entry in plan.ledger if entry.tensor in found.sources)
