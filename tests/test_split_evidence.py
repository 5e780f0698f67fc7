"""A split's record is enough to repeat it; the explanation of a segment shows what each leaf found."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.records.reports import ExplainedStep, explain
from activities.segments.imported import import_segment, read_members
from scripts.cli import run
from tests.house import House
from workflows.documents import ConditionSplit

EVERYBODY = ["u1", "u2", "u3", "u4", "u5", "u6"]

DOCUMENTS = """\
segment: active
match: {any: [{segment: listed}, {event: buy, within_last: 2d}]}
---
journey: parted
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: first}
elements:
  first:
    kind: condition-split
    match: {all: [{segment: active}, {attribute: plan, in: [paid, pro]}]}
    branches: {users_in_segment: second, all_other_users: done}
  second:
    kind: condition-split
    match: {not: {segment: listed}}
    branches: {users_in_segment: done, all_other_users: done}
  done: {kind: exit}
"""


def load_listed(house: House, *users: str) -> None:
    """Import users as the newest version of the segment `listed`."""
    path = house.settings.home / "listed.csv"
    path.write_text("\n".join(["user_id", *users]))
    stores = house.stores
    found = read_members(
        stores.tables, "listed", path, column="user_id", identifier="user_id", rejects_dir=house.settings.rejects
    )
    import_segment(stores.tables, stores.catalogue, found, datetime.now(UTC))


def buy(house: House, ago: timedelta, *users: str) -> None:
    at = (datetime.now(UTC) - ago).isoformat()
    house.load("events", "\n".join(["user_id,event,at", *(f"{user},buy,{at}" for user in users)]) + "\n")


def decisions(house: House) -> dict[tuple[str, str], ExplainedStep]:
    """What the ledger says of each split, by user and element."""
    database = house.stores.ledger.database
    found: dict[tuple[str, str], ExplainedStep] = {}
    for user in EVERYBODY:
        for passage in explain(database, "parted", user).runs:
            found |= {(user, step.element): step for step in passage.steps if step.element in {"first", "second"}}
    return found


def branches_again(house: House, made: dict[tuple[str, str], ExplainedStep], *, kept: str) -> dict[Any, str]:
    """Evaluate each split again, from a part of its record: all of it, its tables only, or nothing."""
    saved = house.stores.catalogue.find("journey", "parted", 1)
    found = {}
    for (user, name), step in made.items():
        element = saved.document.elements[name]  # type: ignore[union-attr]
        assert isinstance(element, ConditionSplit)
        assert step.tables is not None
        assert step.as_of is not None
        versions = {of: version for of, version in step.tables.items() if kept == "all" or "/" not in of}
        again = house.stores.segments.evaluate(
            element.match,
            step.as_of if isinstance(step.as_of, datetime) else datetime.fromisoformat(step.as_of),
            versions=versions if kept != "nothing" else None,
        )
        member = user in again.users.get_column("user_id")
        found[user, name] = "users_in_segment" if member else "all_other_users"
    return found


async def test_a_split_is_repeated_from_its_record(house: House) -> None:
    """From the record each user's branch comes out again, after imports and saves that would change the answers."""
    buy(house, timedelta(days=1), "u2", "u3")
    buy(house, timedelta(days=3), "u4")
    load_listed(house, "u1", "u6")
    house.save(DOCUMENTS)
    async with house.serving() as client:
        report = await house.engine.start("parted", client=client)
        stats = await asyncio.wait_for(house.engine.result(report, client=client), 60)
    assert stats.exited == {"end": 6}
    made = decisions(house)
    branches = {key: step.branch for key, step in made.items()}
    assert {user for (user, name), branch in branches.items() if (name, branch) == ("first", "users_in_segment")} == {
        "u1", "u2", "u6",
    }  # fmt: skip
    assert branches["u2", "second"] == "users_in_segment"
    assert branches["u1", "second"] == branches["u6", "second"] == "all_other_users"
    for step in made.values():
        assert step.tables is not None
        assert set(step.tables) >= {"users", "devices", "events", "members", "segment/listed"}

    house.load("users", "user_id,plan\nu1,free\nu4,paid\nu7,paid\n")
    load_listed(house, "u4", "u5")
    house.save("segment: active\nmatch: {segment: listed}\n")
    buy(house, timedelta(days=1), "u6")
    assert branches_again(house, made, kept="all") == branches
    # Each part of the record is needed: what it leaves open is answered by what is there now.
    assert branches_again(house, made, kept="tables") != branches
    assert branches_again(house, made, kept="nothing") != branches


def lines(tree: dict[str, Any], depth: int = 0) -> list[tuple[int, str, Any, bool]]:
    """Flatten a tree: depth, text, value, truth."""
    own = (depth, tree["text"], tree["value"], tree["true"])
    return [own, *(line for child in tree["children"] for line in lines(child, depth + 1))]


def test_explanation_by_the_command_line(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`segment explain` shows each leaf's value and truth, for a member and for another, nested segments opened."""
    buy(house, timedelta(days=1), "u2")
    load_listed(house, "u1", "u6")
    house.save(DOCUMENTS)
    house.save(
        """
        segment: chosen
        match:
          all:
            - {segment: active}
            - {attribute: age, at_least: 30}
            - not: {device: platform, is: android}
        """
    )
    monkeypatch.setenv("JOURNEYS_HOME", str(house.settings.home))
    answers = []
    for user in ("u2", "u3"):
        monkeypatch.setattr(sys, "argv", ["journeys", "segment", "explain", "chosen", user, "--json"])
        capsys.readouterr()
        assert run() == 0
        answers.append(json.loads(capsys.readouterr().out))
    member, other = answers
    assert (member["member"], other["member"]) == (True, False)
    assert lines(member["tree"]) == [
        (0, "all of", None, True),
        (1, "segment active", None, True),
        (2, "any of", None, True),
        (3, "segment listed", False, False),
        (3, "buy at least once, within last 2d", 1, True),
        (1, "age at least 30", 41, True),
        (1, "not", None, True),
        (2, "a device with platform is android", ["ios"], False),
    ]
    assert lines(other["tree"]) == [
        (0, "all of", None, False),
        (1, "segment active", None, False),
        (2, "any of", None, False),
        (3, "segment listed", False, False),
        (3, "buy at least once, within last 2d", 0, False),
        (1, "age at least 30", 22, False),
        (1, "not", None, True),
        (2, "a device with platform is android", [], False),
    ]
