"""What a verification found: faults, what could not be checked, and how much was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from wvindex.sizes import format_size

KINDS: Final[Mapping[str, str]] = {
    "catalog": "the catalog is malformed, contradicts itself, or is not what was written",
    "metadata": "a zarr.json is missing, or says something else than the catalog",
    "file": "a file beside the arrays is missing, or is not what was written",
    "chunk_missing": "a chunk does not exist",
    "chunk_length": "a chunk is shorter or longer than its array says",
    "checksum": "a chunk's bytes are not those that were written",
    "nonfinite": "an array holds more or fewer NaN or infinite values than the catalog says",
    "extra_file": "a file that nothing in the catalog explains",
    "unsafe_path": "a file or directory of the store is a symlink",
    "unreadable": "the system refuses a file, or it is not a regular one",
    "ledger": "the ledger and the arrays, or the source's tensors, contradict each other",
    "source_changed": "a file of the source is not the one that the store was made from",
    "source_tensor": "a tensor of the source is missing, or has another shape or encoding",
    "source_config": "the source's configuration is not the one that the store recorded",
    "source_catalog": "the catalog says of the model or of an array what does not follow from the source",
    "source_tokenizer": "a file of the tokenizer is not the source's",
    "source_file": "another file that is kept of the source is not the source's",
    "source_bytes": "stored bytes are not the source's",
    "source_values": "stored values are not what the source's mean",
}
"""Every kind of fault, and what it says. The names are stable."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is not as it should be.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    tensor : str or None
        Key of the array, or name of the source's tensor where it is the ledger's.
    chunk : str or None
        Name of the chunk below its array: ``c.0.0``.
    path : str or None
        Below the store; a source's file by its own path.
    expected, found : str
    affects : tuple of str
        Keys of the arrays that cannot be relied on for it, where it is not one array's own fault.
    """

    kind: str
    expected: str
    found: str
    tensor: str | None = None
    chunk: str | None = None
    path: str | None = None
    affects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unchecked:
    """Something that was not checked, which is not to be taken for sound.

    Attributes
    ----------
    what : str
        ``checksum``, ``nonfinite``, ``values``, ``bytes``, ``extra files``, ``header``, ``config``,
        ``catalog`` or ``tokenizer``.
    subject : str
        Key of an array, path of a file, or name of a source's tensor.
    reason : str
    """

    what: str
    subject: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `wvindex.verify`; ``str()`` of it is the summary.

    Attributes
    ----------
    path : str
        Of the store.
    source : str or None
        What it was compared with.
    faults : tuple of Fault
        All of them, in the store's order.
    unchecked : tuple of Unchecked
    notes : tuple of str
        What is odd, but no fault: a source whose time of change is another.
    arrays, chunks, bytes_checked : int
        What was read of the store and held against the catalog.
    seconds : float
        That it took.
    compared : mapping of str to int
        Arrays that were compared with the source, by the decoder that read it.
    bytes_compared : int
        Encoded bytes of these arrays.
    compare_seconds : float
    """

    path: str
    source: str | None = None
    faults: tuple[Fault, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    notes: tuple[str, ...] = ()
    arrays: int = 0
    chunks: int = 0
    bytes_checked: int = 0
    seconds: float = 0.0
    compared: Mapping[str, int] = field(default_factory=dict)
    bytes_compared: int = 0
    compare_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no fault was found. What is `unchecked` may still be wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values, as ``wvindex verify --json`` prints them."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        """Tell what was checked, what was not, and how many faults there are."""
        speed = _rate(self.bytes_checked, self.seconds)
        size = format_size(self.bytes_checked)
        lines = [f"checked    {self.arrays} arrays, {self.chunks} chunks, {size}, {speed}"]
        if self.source is not None:
            speed = _rate(self.bytes_compared, self.compare_seconds)
            arrays = f"{sum(self.compared.values())} arrays, {format_size(self.bytes_compared)}, {speed}"
            lines.append(f"compared   {arrays}, with {self.source}")
            lines += [f"           {n} by {decoder}" for decoder, n in self.compared.items()]
        for (what, reason), n in Counter((one.what, one.reason) for one in self.unchecked).items():
            lines.append(f"unchecked  {what} of {n}: {reason}")
        lines += [f"note       {text}" for text in self.notes]
        lines.append(f"faults     {len(self.faults) or 'none'}")
        return "\n".join(lines)


def _rate(nbytes: int, seconds: float) -> str:
    """Give time and speed: ``1.2 s, 2.5 GB/s``."""
    speed = f", {nbytes / seconds / 1e9:.2g} GB/s" if seconds > 0 and nbytes else ""
    return f"{seconds:.1f} s{speed}"


def shown(value: object, limit: int = 400) -> str:
    """Write a value for a fault: on one line, bounded."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass
class Findings:
    """What a verification collects while it goes on."""

    faults: list[Fault] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(
        self,
        kind: str,
        expected: object,
        found: object,
        *,
        tensor: str | None = None,
        chunk: str | None = None,
        path: str | None = None,
        affects: tuple[str, ...] = (),
    ) -> None:
        """Keep a fault."""
        self.faults.append(
            Fault(
                kind=kind,
                expected=shown(expected),
                found=shown(found),
                tensor=tensor,
                chunk=chunk,
                path=path,
                affects=affects,
            )
        )

    def skip(self, what: str, subject: str, reason: str) -> None:
        """Keep that something was not checked."""
        self.unchecked.append(Unchecked(what, subject, reason))
