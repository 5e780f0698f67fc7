"""Noticing: everybody inside is looked at once, in pages, on either database; unchanged answers cost no look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr
from temporalio.client import Client

from activities.noticing import Notices
from activities.records.admissions import Arrival
from activities.segments.memberships import Ids
from tests.house import USERS, open_house
from workflows.contracts import Leave

JOURNEY = """\
journey: waiting
exit_when: {attribute: plan, is: free}
entries: {start: {kind: api-entry, next: hold}}
elements:
  hold: {kind: time-delay, duration: 30d, next: done}
  done: {kind: exit}
"""


async def test_everybody_inside_is_on_one_page(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages hold each open passage once, with all keys of a user; not who has left, nor who has not come in yet."""
    monkeypatch.setattr("activities.noticing.PAGE", 7)
    now = datetime.now(UTC)
    with open_house(tmp_path / "home", "", "", database=SecretStr(database_url)) as house:
        ledger, expected = house.stores.ledger, set[tuple[str, str]]()
        for key in ("", "order-1", "Order-2", "ö"):
            users = [f"u{number}" for number in range(20)] + ["Ü", "user 'x'", "~"]
            later = {"u3": now + timedelta(hours=1), "u4": now - timedelta(hours=1)}
            arrival = Arrival(f"e{key}", "waiting", 1, "start", "after_exit", now, key=key, enters_at=later)
            for admission in await ledger.admit(arrival, users):
                if admission.user_id != "u5":  # his run has not begun
                    await ledger.begin(admission.passage, now, None)
                if admission.user_id == "u6":
                    await ledger.close({admission.passage: Leave(exit="done", reason="end")}, now)
                elif admission.user_id not in ("u3", "u5"):
                    expected.add((admission.user_id, key))
        notices, after, found = Notices(house.stores), ("", ""), list[tuple[str, str]]()
        while page := notices._inside("waiting", after):
            assert len(page) <= 7
            found += [(one.user_id, one.key) for one in page]
            after = found[-1]
    assert sorted(found) == sorted(expected)


def test_a_fingerprint_tells_users_apart() -> None:
    """The same users have the same fingerprint, others have others, also where their ids read the same end to end."""
    groups = [[], ["a"], ["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"]]
    found = [Ids(pl.Series(group, dtype=pl.String)).fingerprint for group in groups]
    assert len(set(found)) == len(groups)
    assert Ids(pl.Series(["a", "bc"])).fingerprint == found[3]


async def test_answers_that_stay_the_same_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When everybody was looked at by these very answers, nobody is read again, until an answer is another one."""
    monkeypatch.setattr("activities.noticing.LOOK_SECONDS", 0.0)
    with open_house(tmp_path / "home", "", "", freshness_seconds=0) as house:
        house.load("users", USERS)
        house.save(JOURNEY)
        client = await Client.connect("127.0.0.1:1", lazy=True)  # nobody is inside, so that nobody is told
        notices, read = Notices(house.stores), list[str]()
        inside = notices._inside

        def counted(journey: str, after: tuple[str, str]) -> object:
            read.append(journey)
            return inside(journey, after)

        monkeypatch.setattr(notices, "_inside", counted)
        for _ in range(4):
            await notices.look(client, "waiting")
        seen = len(read)
        assert 1 <= seen <= 2
        house.load("users", "user_id,plan\nu1,gold\n")  # nobody comes into it, or out of it
        await notices.look(client, "waiting")
        assert len(read) == seen
        house.load("users", "user_id,plan\nu1,free\n")
        await notices.look(client, "waiting")
        assert len(read) == seen + 1
