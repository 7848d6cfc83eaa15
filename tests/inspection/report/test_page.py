"""The file: whole or not there, the same bytes each time, nothing of a tensor's name in its markup."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.report_pages import data_of, large_document
from wvindex.errors import StoreError, TargetExists, UsageError, WvindexError
from wvindex.inspection.report.document import Document, Entry, Statistic
from wvindex.inspection.report.page import page_html, write_page
from wvindex.store import durable

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "model.layers.0.<b>\"'&amp;${style}$data.weight",
    "line\u2028paragraph\u2029-->]]>\ud800",
)
DOCUMENT = Document(
    kind="Weight report",
    title=HOSTILE[0],
    facts=(("family", HOSTILE[1]),),
    statistics=(Statistic("std", "Std", "Values", "Spread"),),
    first="std",
    columns=("std",),
    entries=tuple(Entry(name, (("from", name),), {"std": 1.0}, aliases=(name,)) for name in HOSTILE),
    notes=HOSTILE,
)


def names_in(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


def test_hostile_names_are_in_the_data_and_nowhere_else() -> None:
    page = page_html(DOCUMENT)
    assert data_of(page)["keys"] == list(HOSTILE)
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert page.count(html.escape(HOSTILE[0])) == 2
    assert not re.search("[\u2028\u2029\ud800-\udfff]", page)


def test_a_name_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    file = write_page(replace(DOCUMENT, title="model-\udcff.gguf"), tmp_path / "a.html")
    assert "<title>model-?.gguf · " in file.read_text(encoding="utf-8")


def test_the_same_document_is_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_page(DOCUMENT, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_the_policy_allows_this_style_and_this_script_alone() -> None:
    page = page_html(DOCUMENT)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in (script, style)
    ]
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src {hashes[0]}",
        f"style-src {hashes[1]}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_no_address_stands_in_it_but_the_name_of_svg() -> None:
    page = page_html(replace(DOCUMENT, title="model"))
    assert set(re.findall(r"https?://[^\s\"')]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|<link|\ssrc=|srcset|@font-face", page)


def test_a_large_model_with_random_numbers_is_below_3_mb(tmp_path: Path) -> None:
    document = large_document()
    file = write_page(document, tmp_path / "large.html")
    assert file.stat().st_size < 3_000_000
    data = data_of(file)
    experts = [block for block in data["blocks"] if block.get("title") == "expert"]
    assert (len(data["layers"]), len(experts), len(experts[0]["values"]["l2"])) == (61, 183, 256)


def test_a_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    file.write_text("mine")
    with pytest.raises(TargetExists):
        write_page(DOCUMENT, file)
    assert file.read_text() == "mine"
    write_page(DOCUMENT, file, overwrite=True)
    assert data_of(file)["title"] == HOSTILE[0]
    assert names_in(tmp_path) == ["a.html"]


@pytest.mark.parametrize("what", ["directory", "symlink"])
def test_nothing_but_a_file_is_replaced(what: str, tmp_path: Path) -> None:
    target = tmp_path / "a.html"
    if what == "directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(TargetExists):
        write_page(DOCUMENT, target, overwrite=True)
    assert names_in(tmp_path) == ["a.html"]


@pytest.mark.parametrize(
    ("name", "error"), [("a.htm", UsageError), ("a", UsageError), ("missing/a.html", StoreError)]
)
def test_where_no_page_can_be_written(name: str, error: type[WvindexError], tmp_path: Path) -> None:
    with pytest.raises(error):
        write_page(DOCUMENT, tmp_path / name)
    assert names_in(tmp_path) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_page(DOCUMENT, tmp_path / "a.html")
    before = file.read_bytes()

    def full(path: Path) -> None:
        raise StoreError("no space left", file=path)

    monkeypatch.setattr(durable, "fsync_path", full)
    with pytest.raises(StoreError):
        write_page(replace(DOCUMENT, title="new"), file, overwrite=True)
    assert file.read_bytes() == before
    assert names_in(tmp_path) == ["a.html"]
