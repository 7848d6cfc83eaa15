"""The corpus of hostile input, verified: nothing that is refused elsewhere passes here."""

from __future__ import annotations

from pathlib import Path

import pytest

import wvindex
from tests.hostile.make import Corpus, make
from tests.hostile.store_faults import OPENING, READING
from wvindex.errors import WvindexError
from wvindex.verifying import verify


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("hostile") / "corpus")


def kinds(store: Path) -> set[str]:
    """Verify; what the corpus's own ledger, which is a sketch, has wrong does not count."""
    try:
        return {one.kind for one in verify(store).faults} - {"ledger"}
    except WvindexError as error:
        return {error.kind}


@pytest.mark.parametrize("name", [*OPENING, *READING, "unfinished"])
def test_every_damaged_store_is_found(corpus: Corpus, name: str) -> None:
    assert kinds(corpus.stores[f"store/{name}"])


def test_the_sound_store_is_sound(corpus: Corpus) -> None:
    (some,) = {path.parent for path in corpus.stores.values()}
    assert not kinds(some / "sound.zarr")


def test_what_is_odd_but_valid_is_compared_to_its_last_tensor(corpus: Corpus, tmp_path: Path) -> None:
    for name, source in corpus.valid.items():
        store = wvindex.build(source, tmp_path / f"{name.replace('/', '-')}.zarr")
        found = verify(store, source)
        assert found.faults == (), name
        undecodable = [one for one in found.unchecked if one.what == "values"]
        assert sum(found.compared.values()) + len(undecodable) == found.arrays, name
