"""The table of rules: ids that stay, words for everything, and docs/check.md made from it."""

from __future__ import annotations

import re

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, REPOSITORY
from wvindex.errors import UsageError
from wvindex.inspection.linting.document import rules_markdown
from wvindex.inspection.linting.table import GROUPS, RULES, chosen, rule_named


def test_ids_and_names_are_given_once_and_in_order() -> None:
    ids = [rule.id for rule in RULES]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"WV\d{3}", one) and one[:3] in GROUPS for one in ids)
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_every_rule_is_explained() -> None:
    for rule in RULES:
        assert rule.title[0].isupper()
        assert not rule.title.endswith(".")
        assert rule.help.endswith(".")
        assert rule.find.__doc__ or rule.id.startswith("WV20")


def test_docs_check_md_is_made_from_the_table() -> None:
    page = (REPOSITORY / "docs" / "check.md").read_text(encoding="utf-8")
    assert page.endswith("\n" + rules_markdown()), (
        "end docs/check.md with wvindex.inspection.linting.document.rules_markdown()"
    )


def test_rules_are_chosen_by_id_name_and_group() -> None:
    assert [rule.id for rule in chosen(["wv101", "zero-rows"], [])] == ["WV101", "WV103"]
    assert {rule.id[:3] for rule in chosen(["WV5"], [])} == {"WV5"}
    assert len(chosen([], ["WV1"])) == sum(not rule.id.startswith("WV1") for rule in RULES)
    with pytest.raises(UsageError, match="nothing matches"):
        chosen(["WV1"], ["WV1"])
    assert rule_named("nonfinite-weights") is rule_named("WV101")


@pytest.mark.parametrize("name", ["WV999", "WV", "", "nan", "W"])
def test_rules_that_are_not(name: str) -> None:
    with pytest.raises(UsageError, match="no such rule"):
        wv.check(EXAMPLE, rules=[name])
    with pytest.raises(UsageError, match="no such rule"):
        wv.check(EXAMPLE, ignore=[name])


def test_headers_alone_are_read_where_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    from wvindex.query.lazy import Tensor

    def never(self: Tensor, *arguments: object) -> None:
        raise AssertionError(f"{self.key} is read")

    monkeypatch.setattr(Tensor, "stream", never)
    monkeypatch.setattr(Tensor, "read", never)
    headers = [rule.id for rule in RULES if not rule.reads_weights]
    assert {one[:3] for one in headers} >= {"WV5", "WV6", "WV7"}
    assert wv.check(EXAMPLE, rules=headers).findings == ()
