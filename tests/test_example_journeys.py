"""The ten example journeys check and save together, and a typo in them is told with its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities.documents.checking import Checked, check_documents
from activities.documents.reading import read_documents
from tests.example_journeys import NAMES, load_shop, write_examples
from tests.house import House


@pytest.fixture
def shop(house: House) -> House:
    load_shop(house)
    return house


def checked(house: House, paths: list[Path]) -> Checked:
    raws = [raw for path in paths for raw in read_documents(path)]
    return check_documents(house.stores, raws, datetime.now(UTC))


def test_ten_journeys_check_and_save(shop: House, tmp_path: Path) -> None:
    """All ten save together with the segments and the file that they need; saved again, nothing changes."""
    paths = write_examples(tmp_path / "documents")
    found = checked(shop, paths)
    assert found.faults == []
    saved = shop.engine.save(paths).saved
    assert [one.name for one in saved if one.kind == "journey"] == list(NAMES)
    assert [one.name for one in saved if one.name.endswith("-vip")] == ["j01-vip-hello-vip"]
    assert {one.changed for one in shop.engine.save(paths).saved} == {False}
    # What is saved names no file: the members were imported.
    assert '"file"' not in str(shop.stores.catalogue.find("journey", "j01-vip-hello").document.model_dump_json())


def test_the_warnings_of_the_ten(shop: House, tmp_path: Path) -> None:
    """Warned of are unguarded pushes, an attribute that an update adds, a segment of nobody; no schedule."""
    warnings = checked(shop, write_examples(tmp_path)).warnings
    unguarded = [one.path for one in warnings if one.code == "unguarded-push"]
    assert unguarded == [
        *("elements.hello", "elements.promo", "elements.nudge", "elements.day-0", "elements.offer-a"),
        *("elements.rate", "elements.wish", "elements.tell", "elements.digest"),
    ]
    others = ("recurring-never", "new-attribute", "segment-of-nobody")
    assert [(one.code, one.path) for one in warnings if one.code in others] == [
        ("new-attribute", "elements.mark.set.push_fallback"),
        ("segment-of-nobody", "elements.active.match"),
    ]
    assert all(one.line for one in warnings)


def test_two_typos_are_two_faults(shop: House, tmp_path: Path) -> None:
    """Two typos in two of the ten journeys are two faults, each with line, path and the nearest name."""
    paths = write_examples(tmp_path)
    text = paths[1].read_text().replace("by: {attribute: country}", "by: {attribute: contry}")
    text = text.replace("exit_when: {segment: churned}", "exit_when: {segment: churnd}")
    paths[1].write_text(text)
    lines = text.splitlines()
    faults = checked(shop, paths).faults
    assert [(one.code, one.path, one.hint) for one in faults] == [
        ("unknown-segment", "exit_when.segment", "did you mean `churned`?"),
        ("unknown-attribute", "elements.where.by.attribute", "did you mean `country`?"),
    ]
    assert ["churnd" in lines[(one.line or 0) - 1] or "contry" in lines[(one.line or 0) - 1] for one in faults] == [
        True,
        True,
    ]
