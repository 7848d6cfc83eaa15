"""A catalog whose links contradict what it says of the source is refused before a byte is read."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.arrays import memory_array, write_store
from tests.support.linking import HEADER, write_linked_store
from tests.support.sealing import seal
from wvindex.errors import CatalogError
from wvindex.query.database import open_store
from wvindex.store.catalog import Catalog
from wvindex.store.linked import LinkedStore
from wvindex.store.reader import open_catalog

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "catalog.schema.json").read_text())
ARRAYS = [
    memory_array("plain", (30, 64), "F32"),
    memory_array("packed", (12, 256), "Q4_K"),
    memory_array("scaled", (2, 5, 30), "FP8"),
    memory_array("empty", (0, 5), "F16"),
]

Document = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_linked_store(tmp_path, ARRAYS)


def document_of(store: Path) -> Document:
    document: Document = json.loads((store / "catalog.json").read_text())
    return document


def test_links_read_back_equal_and_are_as_the_schema_says(store: Path) -> None:
    catalog = open_catalog(store)
    assert Catalog.from_json(catalog.to_json()) == catalog
    assert [len(entry.link.scales) > 0 for entry in catalog.arrays.values() if entry.link] == [
        False,
        False,
        True,
        False,
    ]
    jsonschema.Draft202012Validator(SCHEMA).validate(document_of(store))


def test_a_catalog_from_before_there_were_links_is_read(tmp_path: Path) -> None:
    document = document_of(write_store(tmp_path / "x.zarr", ARRAYS))
    del document["source"]["links"], document["source"]["files"][0]["header_nbytes"]
    for array in document["arrays"].values():
        del array["link"]
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert Catalog.from_json(document) == open_catalog(tmp_path / "x.zarr")


def first(document: Document, key: str, part: str = "rows") -> Document:
    ranges: list[Document] = document["arrays"][key]["link"][part]
    return ranges[0]


def size_of(document: Document, key: str) -> int:
    size: int = document["source"]["files"][first(document, key)["file"]]["size"]
    return size


def put(*path: str | int, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        node: Any = document
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


def past_the_end(document: Document) -> None:
    first(document, "plain")["offset"] = size_of(document, "plain") - 1


def beyond_the_end(document: Document) -> None:
    first(document, "plain")["offset"] = size_of(document, "plain") + 1


def longer(document: Document) -> None:
    first(document, "plain")["nbytes"] += 1


def missing_a_range(document: Document) -> None:
    document["arrays"]["packed"]["link"]["rows"].pop()


def of_other_scales(document: Document) -> None:
    link = document["arrays"]["scaled"]["link"]
    link["rows"].append(link["scales"].pop())


def counterbalanced(document: Document) -> None:
    """The sum is right, the parts are not."""
    first(document, "plain")["nbytes"] = -4
    document["arrays"]["plain"]["link"]["rows"].append({"file": 0, "offset": 24, "nbytes": 30 * 64 * 4 + 4})
    document["arrays"]["plain"]["link"]["rows"] = document["arrays"]["plain"]["link"]["rows"][::3]


LINK = ("arrays", "plain", "link")
HOSTILE: list[tuple[Callable[[Document], None], str]] = [
    (past_the_end, r"plain.link.rows.\[0\].nbytes"),
    (beyond_the_end, r"plain.link.rows.\[0\].nbytes"),
    (longer, "plain.link.rows"),
    (missing_a_range, "packed.link.rows"),
    (of_other_scales, "scaled.link"),
    (counterbalanced, r"plain.link.rows.\[0\].nbytes"),
    (put(*LINK, "rows", 0, "offset", value=-1), "offset"),
    (put(*LINK, "rows", 0, "offset", value=len(HEADER) - 1), "offset"),
    (put(*LINK, "rows", 0, "offset", value=1 << 70), "nbytes"),
    (put(*LINK, "rows", 0, "offset", value=30.0), "offset"),
    (put(*LINK, "rows", 0, "file", value=-1), r"plain.link.rows.\[0\].file"),
    (put(*LINK, "rows", 0, "file", value=3), r"plain.link.rows.\[0\].file"),
    (put(*LINK, "rows", 0, "file", value=True), r"plain.link.rows.\[0\].file"),
    (put(*LINK, "rows", 0, value={"file": 0, "offset": 30}), "nbytes"),
    (put(*LINK, "rows", value=[]), "plain.link.rows"),
    (put(*LINK, value={}), "plain.link.rows"),
    (put("arrays", "empty", "link", "rows", value=[{"file": 0, "offset": 30, "nbytes": 0}]), "nbytes"),
    (put("arrays", "plain", "crc32c", value=[1]), "crc32c"),
    (put("arrays", "plain", "nan", value=0), "nan"),
    (put("arrays", "plain", "inf", value=0), "nan"),
    (put("arrays", "plain", "link", value=None), "crc32c"),
    (put("source", "links", value=[]), r"link.rows.\[0\].file"),
    (put("source", "links", value=["../a", "../b"]), "source.links"),
    (put("source", "links", 0, value="/etc/passwd"), r"source.links.\[0\]"),
    (put("source", "links", 1, value="//etc/passwd"), r"source.links.\[1\]"),
    (put("source", "links", 2, value=""), r"source.links.\[2\]"),
    (put("source", "links", 0, value="../a\0b"), r"source.links.\[0\]"),
    (put("source", "links", 0, value=7), r"source.links.\[0\]"),
    (put("source", "files", 1, "header_nbytes", value=0), r"source.files.\[1\].header_nbytes"),
    (put("source", "files", 1, "header_nbytes", value=-5), r"source.files.\[1\].header_nbytes"),
    (put("source", "files", 1, "header_nbytes", value=1 << 40), r"source.files.\[1\].header_nbytes"),
    (put("source", "files", 1, "header_sha256", value="ab"), r"source.files.\[1\].header_sha256"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), HOSTILE)
def test_a_hostile_link_is_named(store: Path, change: Callable[[Document], None], field: str) -> None:
    document = copy.deepcopy(document_of(store))
    change(document)
    (store / "catalog.json").write_text(json.dumps(document))
    seal(store)
    for attempt in (open_store, LinkedStore):
        with pytest.raises(CatalogError, match=field) as caught:
            attempt(store)
        assert caught.value.expected is not None


def test_a_header_that_would_take_forever_to_hash_is_refused(store: Path) -> None:
    catalog = open_catalog(store)
    vast = replace(catalog.sources[0], size=1 << 60, header_nbytes=1 << 50)
    with pytest.raises(CatalogError, match="header_nbytes"):
        Catalog.from_json(replace(catalog, sources=(vast, *catalog.sources[1:])).to_json())


def test_another_file_is_not_served_though_its_path_is_allowed(store: Path, tmp_path: Path) -> None:
    """A store from elsewhere that points at a file of mine must know what is in it."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100_000))
    document = document_of(store)
    document["source"]["links"] = ["../secret"] * 3
    for file in document["source"]["files"]:
        file |= {"size": 100_000, "mtime_ns": secret.stat().st_mtime_ns}
        file |= {"header_sha256": hashlib.sha256(HEADER).hexdigest()}
    (store / "catalog.json").write_text(json.dumps(document))
    seal(store)
    with open_store(store) as db, pytest.raises(Exception, match="header_sha256"):
        db["plain"][0]
