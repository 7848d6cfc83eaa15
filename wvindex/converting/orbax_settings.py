"""MaxText's settings beside a checkpoint, which say what form its down-projections have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wvindex.converting.files import SourceFile
from wvindex.errors import WvindexError
from wvindex.limits import MAX_YAML_BYTES
from wvindex.sources.strict_yaml import parse_mapping

_SUFFIXES: Final = (".yml", ".yaml")

_FORM: Final = "fused_mla_lora_proj"
_FORM_LINE: Final = re.compile(
    rf"""^([ \t]*["']?{_FORM}["']?[ \t]*:[ \t]*)(true|false)(?=[ \t]*(?:#.*)?\r?$)""",
    re.IGNORECASE | re.MULTILINE,
)
_MODEL_LINE: Final = re.compile(r"^(?:decoder_block|base_emb_dim|base_config)[ \t]*:", re.MULTILINE)
"""What tells MaxText's settings from other YAML."""

_MODELS: Final = "models"
"""The directory of settings that MaxText lays over others, which it is started with."""

_ADDED: Final = f"{_FORM}: true  # added by wvindex convert"
_ADDED_END: Final = re.compile(rf"(?:(?<=\n){_ADDED}(\r?\n)|\r?\n{_ADDED})\Z")
"""As the last line; where the text before has no line end, neither has it."""


def settings(files: Iterable[SourceFile]) -> Iterator[tuple[str, str]]:
    """Give the names and texts of the files that may be MaxText's settings."""
    for file in files:
        if file.name.endswith(_SUFFIXES) and file.nbytes <= MAX_YAML_BYTES:
            data = bytearray(file.nbytes)
            file.read(0, memoryview(data))
            with suppress(UnicodeDecodeError):
                yield file.name, data.decode()


def rewritten_settings(name: str, text: str, *, fused: bool) -> str:
    """Give MaxText's settings with ``fused_mla_lora_proj`` as the result has it; all other text stays.

    Absent it means false, so it is added at the end of settings that become those of a fused checkpoint; what
    was added is taken away again.

    Parameters
    ----------
    name : str
        The file's, below the checkpoint.
    text : str
    fused : bool
    """

    def line(found: re.Match[str]) -> str:
        value = str(fused)
        return found[1] + (value.lower() if found[2].islower() else value)

    if fused and _is_silent(name, text):
        return _with_form(text) or text
    if not fused:
        text = _ADDED_END.sub("", text)
    return _FORM_LINE.sub(line, text)


def _is_silent(name: str, text: str) -> bool:
    """Whether MaxText is started with these settings, and they do not speak of the form."""
    is_started_with = Path(name).parent.name != _MODELS and _MODEL_LINE.search(text) is not None
    return is_started_with and not any(_FORM in line for line in _lines(text))


def _with_form(text: str) -> str | None:
    """Add the form to settings; None where a line at the end would not be one of them."""
    line_end = "\r\n" if "\r\n" in text else "\n"
    new = f"{text}{_ADDED}{line_end}" if text.endswith("\n") else f"{text}{line_end}{_ADDED}"
    before, after = _parsed(text), _parsed(new)
    return new if before is not None and after == before | {_FORM: True} else None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return parse_mapping(text.encode(), file=Path())
    except WvindexError:  # PyYAML may be missing, too
        return None


def _lines(text: str) -> list[str]:
    return [line.partition("#")[0] for line in text.splitlines()]


def is_left_unsaid(name: str, text: str, *, fused: bool) -> bool:
    """Whether settings should say the form, and `rewritten_settings` does not know how to."""
    if fused and _is_silent(name, text):
        return _with_form(text) is None
    return sum(_FORM in line for line in _lines(text)) > len(_FORM_LINE.findall(text))
