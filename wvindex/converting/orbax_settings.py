"""MaxText's settings beside a checkpoint, which say what form its down-projections have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from wvindex.converting.files import SourceFile
from wvindex.limits import MAX_YAML_BYTES

_SUFFIXES: Final = (".yml", ".yaml")

_FORM: Final = "fused_mla_lora_proj"
_FORM_LINE: Final = re.compile(
    rf"""^([ \t]*["']?{_FORM}["']?[ \t]*:[ \t]*)(true|false)(?=[ \t]*(?:#.*)?\r?$)""",
    re.IGNORECASE | re.MULTILINE,
)


def settings(files: Iterable[SourceFile]) -> Iterator[tuple[str, str]]:
    """Give the names and texts of the files that may be MaxText's settings."""
    for file in files:
        if file.name.endswith(_SUFFIXES) and file.nbytes <= MAX_YAML_BYTES:
            data = bytearray(file.nbytes)
            file.read(0, memoryview(data))
            with suppress(UnicodeDecodeError):
                yield file.name, data.decode()


def rewritten_settings(text: str, *, fused: bool) -> str:
    """Give MaxText's settings with ``fused_mla_lora_proj`` as the result has it; all other text stays."""

    def line(found: re.Match[str]) -> str:
        value = str(fused)
        return found[1] + (value.lower() if found[2].islower() else value)

    return _FORM_LINE.sub(line, text)


def tells_form(text: str) -> bool:
    """Whether settings speak of the form in a way that `rewritten_settings` does not know."""
    lines = [line.partition("#")[0] for line in text.splitlines()]
    return sum(_FORM in line for line in lines) > len(_FORM_LINE.findall(text))
