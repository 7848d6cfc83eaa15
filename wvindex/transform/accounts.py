"""What became of each source tensor, noted while a plan is made; written out when somebody asks for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wvindex.formats.ledger import SCALES, LedgerEntry
from wvindex.sources.base import TensorInfo


@dataclass
class Accounts:
    """Where tensors went.

    Attributes
    ----------
    tensors : sequence of TensorInfo
        All of the source's.
    used : dict of str to tuple of str
        By an array's key, the tensors that it holds, or was computed from.
    reasons : dict of str to str
        By tensor, where it went if no array holds it.
    scales_of : dict of str to str
        By the scales' name, the codes'. Scales go where their codes go.
    """

    tensors: Sequence[TensorInfo]
    used: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    scales_of: dict[str, str] = field(default_factory=dict)

    def hold(self, key: str, names: Iterable[str]) -> None:
        """Note that an array was made of some tensors; of one that is named twice, once."""
        self.used[key] = tuple(names)

    def ledger(self) -> tuple[LedgerEntry, ...]:
        """Give one entry a tensor, in the source's order."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for key, names in self.used.items():
            for name in dict.fromkeys(names):
                keys[name].append(key)
        return tuple(
            LedgerEntry(
                tensor=info.name,
                file=info.file.name,
                encoding=info.encoding.name,
                shape=info.shape,
                keys=tuple(keys.get(self.scales_of.get(info.name, info.name), ())),
                reason=SCALES if info.name in self.scales_of else self.reasons.get(info.name),
            )
            for info in self.tensors
        )
