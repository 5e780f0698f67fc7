"""Operating without a server: journeys that are put away, and winners chosen by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House
from workers.opening import open_stores
from workflows.errors import JourneyError

SPLIT = """\
journey: tested
entries: {start: {kind: audience-entry, audience: {everyone: true}, next: it}}
elements:
  it: {kind: split-test, branches: {a: {share: 50, next: one}, b: {share: 50, next: two}}}
  one: {kind: exit}
  two: {kind: exit}
"""


@pytest.fixture
def line(tmp_path: Path) -> Commands:
    found = Commands(tmp_path / "folder")
    for name, text in (("users.csv", USERS), ("devices.csv", DEVICES), ("all.yaml", f"{SAMPLE_DOCUMENTS}---\n{SPLIT}")):
        found.write(name, text)
    for words in (("import", "users", "users.csv"), ("import", "devices", "devices.csv"), ("save", "all.yaml")):
        assert found(*words).status == 0
    return found


def state_of(line: Commands, name: str) -> str:
    found = {one["journey"]: one["state"] for one in line("list", "--json").json["journeys"]}
    return str(found[name])


def run(line: Commands, name: str) -> None:
    """Write down that a journey runs, as its start does."""
    with open_stores(line.settings) as stores:
        saved = stores.catalogue.find("journey", name)
        asyncio.run(stores.ledger.open_journey(name, 1, saved.digest, "launch", datetime.now(UTC)))


def test_a_journey_is_put_away_and_taken_out(line: Commands) -> None:
    """A draft is put away and is a draft again; one that runs is not put away; a second time changes nothing."""
    assert state_of(line, "hello") == "draft"
    assert line("archive", "hello", "--json").json == {"journey": "hello", "state": "archived"}
    assert state_of(line, "hello") == "archived"
    assert line("archive", "hello").status == 0
    assert line("archive", "hello", "--undo", "--json").json["state"] == "draft"
    assert state_of(line, "hello") == "draft"
    refused = line("archive", "hello", "--undo", "--json")
    assert (refused.status, refused.codes) == (2, ["refused"])
    run(line, "hello")
    for words in (("archive", "hello"), ("archive", "hello", "--undo")):
        refused = line(*words, "--json")
        assert (refused.status, refused.codes) == (2, ["refused"])
        assert "is running" in refused.errors[0]["message"]
    assert line("archive", "nobody", "--json").codes == ["not-found"]


async def test_what_is_put_away_does_not_start(house: House) -> None:
    """The start of an archived journey is refused with how to take it out; taken out, it starts."""
    saved = house.stores.catalogue.find("journey", "hello")
    archived = (saved.name, saved.version, saved.digest, datetime.now(UTC))
    await house.stores.ledger.archive(*archived)
    async with house.serving() as client:
        with pytest.raises(JourneyError, match="archive hello --undo"):
            await house.engine.start("hello", client=client)
        await house.stores.ledger.archive(*archived, undo=True)
        stats = await house.engine.result(await house.engine.start("hello", client=client), client=client)
    assert (stats.entered, stats.state) == (4, "finished")


def test_a_winner_is_chosen_by_hand(line: Commands) -> None:
    """The variant named is everybody's from then on, until another one is named; what is none is refused."""
    assert line("winner", "tested", "it", "b", "--json").json == {"journey": "tested", "element": "it", "variant": "b"}
    assert line("winner", "tested", "it", "a").status == 0
    for words, named in (("tested it c", "a, b"), ("tested one a", "'one'"), ("hello loyal a", "'loyal'")):
        refused = line("winner", *words.split(), "--json")
        assert (refused.status, refused.codes) == (2, ["not-found"])
        assert named in refused.errors[0]["message"]
    planned = line("plan", "tested", "--json").json["elements"]
    assert planned["it"]["branches"] == {"a": 6, "b": 0}
