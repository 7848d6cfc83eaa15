"""What an export will write: files, the bytes that each is made of, and what is to be said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wvindex.converting.staged import Content
from wvindex.errors import WvindexError
from wvindex.exporting.maxtext_leaves import ITEMS, LeafForm
from wvindex.exporting.tensors import OutTensor
from wvindex.sizes import format_size

Format = Literal["safetensors", "gguf", "maxtext"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A tensor of the result, for people and scripts.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
    nbytes : int
    file : str
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export will do, or has done. ``str()`` is the report.

    Attributes
    ----------
    format : str
    form : {"kept", "absorbed"}
        Whether tensors are those of an ordinary checkpoint, or dense arrays of absorbed attention.
    source, target : str
    tensors : tuple of Exported
    files : mapping of str to int
        Every file and its bytes; of a single file, its name alone.
    refusals : tuple of (str, WvindexError)
        Tensors (or parts of the configuration) that stand in the way, and why. Empty where it can be done.
    notes : tuple of str
    """

    format: str
    form: Literal["kept", "absorbed"]
    source: str
    target: str
    tensors: tuple[Exported, ...]
    files: Mapping[str, int]
    refusals: tuple[tuple[str, WvindexError], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return {
            "format": self.format,
            "form": self.form,
            "source": self.source,
            "target": self.target,
            "nbytes": self.nbytes,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "files": dict(self.files),
            "refusals": [
                {"tensor": tensor, "kind": error.kind, "message": str(error)}
                for tensor, error in self.refusals
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Tell what would be written, and what stands in the way."""
        dtypes = Counter(tensor.dtype for tensor in self.tensors)
        kinds = ", ".join(f"{count} {name}" for name, count in dtypes.most_common())
        lines = [
            f"export   {self.source} -> {self.target}",
            f"format   {self.format}" + (" of the absorbed form" if self.form == "absorbed" else ""),
            f"tensors  {len(self.tensors)} ({kinds}), {format_size(self.nbytes)}",
        ]
        lines += [f"file     {name} ({format_size(nbytes)})" for name, nbytes in self.files.items()]
        lines += [f"note     {note}" for note in self.notes]
        lines += [f"refused  {tensor}: {error}" for tensor, error in self.refusals]
        return "\n".join(lines)


@dataclass
class Outline:
    """What is gathered while an export is planned.

    Attributes
    ----------
    contents : dict of str to list of Content
        What each file is made of.
    tensors : list of (OutTensor, str)
        Each tensor, and its file.
    leaves : list of LeafForm
        Of a MaxText checkpoint, the arrays of its tree.
    refusals : list of (str, WvindexError)
    notes : list of str
    is_absorbed : bool
        Whether tensors are the dense arrays of absorbed attention.
    """

    contents: dict[str, list[Content]] = field(default_factory=dict)
    tensors: list[tuple[OutTensor, str]] = field(default_factory=list)
    leaves: list[LeafForm] = field(default_factory=list)
    refusals: list[tuple[str, WvindexError]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_absorbed: bool = False

    def add_tensors(self, tensors: Sequence[OutTensor], file: str) -> None:
        """Note which file tensors stand in."""
        self.tensors += [(tensor, file) for tensor in tensors]

    @property
    def nbytes(self) -> int:
        """Bytes that will be written, before leaves are compressed."""
        files = sum(part.nbytes for parts in self.contents.values() for part in parts)
        return files + sum(leaf.nbytes for leaf in self.leaves)

    def export(self, format_: str, form: Literal["kept", "absorbed"], source: str, target: str) -> Export:
        """Give what was gathered."""
        listed: list[tuple[OutTensor | LeafForm, str]] = [*self.tensors]
        files = {name: sum(one.nbytes for one in parts) for name, parts in self.contents.items()}
        if self.leaves:
            listed += [(leaf, ITEMS) for leaf in self.leaves]
            files = {ITEMS: sum(leaf.nbytes for leaf in self.leaves)} | files
        return Export(
            format=format_,
            form=form,
            source=source,
            target=target,
            tensors=tuple(
                Exported(
                    name=tensor.name,
                    dtype=tensor.encoding.name,
                    shape=tensor.shape,
                    nbytes=tensor.nbytes,
                    file=file,
                )
                for tensor, file in listed
            ),
            files=files,
            refusals=tuple(self.refusals),
            notes=tuple(self.notes),
        )
