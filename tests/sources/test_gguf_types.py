"""GGUF's numbers agree with the gguf package's."""

from __future__ import annotations

import gguf
import pytest

from wvindex.formats.encodings import ENCODINGS
from wvindex.sources.gguf_types import (
    ARRAY,
    BOOL,
    GGML_TYPES,
    REMOVED_GGML_TYPES,
    SCALARS,
    STRING,
    UINT32,
    VALUE_TYPES,
)

NEWER_THAN_THE_PACKAGE = {41: "Q1_0", 42: "Q2_0"}


def test_every_type_of_the_package_has_the_same_number_here() -> None:
    theirs = {int(t): t.name for t in gguf.GGMLQuantizationType}
    assert GGML_TYPES.items() >= theirs.items()
    assert set(GGML_TYPES) - set(theirs) <= set(NEWER_THAN_THE_PACKAGE)
    assert GGML_TYPES.items() >= NEWER_THAN_THE_PACKAGE.items()


@pytest.mark.parametrize("ggml_type", gguf.GGMLQuantizationType, ids=lambda t: t.name)
def test_block_and_type_sizes_are_the_package_s(ggml_type: gguf.GGMLQuantizationType) -> None:
    block_size, type_size = gguf.GGML_QUANT_SIZES[ggml_type]
    if ggml_type.name == "Q8_1":
        # ggml's block_q8_1 is two halves and 32 bytes; the package counts its scales as two floats.
        type_size = 2 + 2 + 32
    encoding = ENCODINGS[GGML_TYPES[ggml_type]]
    assert (encoding.block_size, encoding.type_size) == (block_size, type_size)


def test_every_number_has_an_encoding_and_no_removed_one_does() -> None:
    assert set(GGML_TYPES.values()) <= set(ENCODINGS)
    assert not set(GGML_TYPES) & set(REMOVED_GGML_TYPES)


def test_metadata_value_types_are_the_package_s() -> None:
    kinds = gguf.GGUFValueType
    assert (UINT32, BOOL, STRING, ARRAY) == (kinds.UINT32, kinds.BOOL, kinds.STRING, kinds.ARRAY)
    for kind, dtype in SCALARS.items():
        name = kinds(kind).name.replace("BOOL", "UINT8").lower()
        assert dtype.name == name
    assert {*SCALARS, STRING, ARRAY} == {int(kind) for kind in kinds}


def test_value_types_are_the_packages() -> None:
    assert {kind.value: kind.name for kind in gguf.GGUFValueType} == dict(enumerate(VALUE_TYPES))
