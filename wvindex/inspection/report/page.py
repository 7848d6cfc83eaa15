"""A document as one HTML file: style and script inside, data packed, and nothing that asks a network.

The data is JSON, gzipped, in base64: it holds no ``<``, so no tensor's name can end the element that it
stands in. The script makes text of it, never markup. The policy in the page's head lets nothing run but
this script, known by its hash, and nothing load.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import string
from importlib.resources import files
from pathlib import Path
from typing import Final

from wvindex.errors import UsageError
from wvindex.inspection.report.document import Document
from wvindex.store import outputs
from wvindex.store.durable import write_file

SCRIPTS: Final = ("dom", "numbers", "colour", "model", "grid", "heatmap", "charts", "panel", "table", "main")
"""Parts of the page's script, in order; together they are one function."""

SUFFIX: Final = ".html"


def page_html(document: Document) -> str:
    """Give the whole file: the same document, the same text."""
    style, script = _asset("report.css"), _script()
    return string.Template(_asset("template.html")).substitute(
        title=html.escape(document.title),
        kind=html.escape(document.kind),
        generator=html.escape(document.generator),
        policy=_policy(style, script),
        style=style,
        data=_packed(document),
        script=script,
    )


def require_output(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Give the path that a page goes to, before anything is computed for it.

    Raises
    ------
    UsageError
        If it is no path, or its name ends otherwise than in ``.html``.
    StoreError
        If its directory is missing, or may not be written to.
    TargetExists
        If it is taken and may not be replaced; nothing but a file ever is.
    """
    path = Path(os.fsdecode(out))
    if path.suffix.lower() != SUFFIX:
        raise UsageError("a page is an HTML file", file=path, field="out", expected=f"a name in {SUFFIX}")
    return outputs.require_output(path, overwrite=overwrite)


def write_page(document: Document, out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a document's page: whole, or not at all.

    Raises
    ------
    UsageError, StoreError, TargetExists
        As `require_output` does, and where the system refuses.
    """
    data = page_html(document).encode(errors="replace")  # of file names that are no Unicode
    target = require_output(out, overwrite=overwrite)
    with outputs.output_file(target, overwrite=overwrite) as path:
        write_file(path, [data])
    return target


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _script() -> str:
    body = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


def _packed(document: Document) -> str:
    text = json.dumps(document.to_json(), allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0)).decode("ascii")


def _policy(style: str, script: str) -> str:
    """Give the page's Content-Security-Policy: its own style and script alone, and no connection at all."""
    rules = (
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
