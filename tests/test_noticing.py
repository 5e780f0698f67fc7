"""Noticing: who waits is looked at once, in pages, on any database, and woken once; unchanged answers cost no look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr
from temporalio.client import Client

from activities.noticing import Notices
from activities.records.admissions import Arrival
from activities.records.reports import explain
from activities.records.rows import hits, waits
from activities.segments.memberships import Ids
from tests.house import USERS, House, at_rest, open_house
from tests.test_events import RUNS, branches_of, connected, left, open_journeys, rows
from tests.waiting import begin, look, run_of, save_wait, skip
from tests.worker_that_dies import until
from workers.opening import open_stores
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


async def test_a_run_is_woken_once(house: House) -> None:
    """Who was woken a moment ago, or has noticed and waits out a fixed time, is not woken again; no other is."""
    save_wait(house, "gone: {not_in_segment: {segment: paying}, next: came}", fixed="true")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await begin(house, client, "u4")
        house.load("users", "user_id,plan\nu1,free\n")
        assert await look(house, client) == 1
        await until(lambda: len(rows(house, hits)) == 1)
        assert await look(house, client) == 0
        await skip(client, run, timedelta(days=1, seconds=1))
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: gone", "came: next"]]
    # While no worker answers, two looks of one process wake a run once.
    house.load("users", "user_id,plan\nu4,free\n")
    notices, client = Notices(house.stores), await connected(house)
    assert await notices.look(client, "waiting") == 1
    notices._looked.clear()
    assert await notices.look(client, "waiting") == 0


async def test_the_exit_condition_finds_whoever_waits(house: House) -> None:
    """A user for whom an import makes `exit_when` true leaves from the middle of a delay of thirty days."""
    house.save("""\
        journey: waiting
        exit_when: {attribute: plan, is: free}
        entries: {start: {kind: trigger-entry, trigger: {event: begin}, next: hold}}
        elements:
          hold: {kind: time-delay, duration: 30d, next: done}
          done: {kind: exit}
        """)
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        for user in ("u1", "u4"):
            await house.engine.event(user, "begin", client=client)
            await at_rest(client, run_of(client, user))
        house.load("users", "user_id,plan\nu4,free\n")
        assert await look(house, client) == 1
        await left(house, "waiting", "u4")
    reasons = {user: explain(house.stores.ledger.database, "waiting", user).runs[0].reason for user in ("u1", "u4")}
    assert reasons == {"u1": None, "u4": "exit-criteria"}


async def test_who_waits_by_an_old_answer_is_noticed(house: House) -> None:
    """Whoever begins to wait by an answer that is a moment old is found by the next look, whatever changed."""
    house.save("""\
        journey: waiting
        entries: {start: {kind: audience-entry, audience: {everyone: true}, next: hold}}
        elements:
          hold: {kind: time-delay, duration: 20s, next: wait}
          wait:
            kind: wait-for-trigger
            up_to: 30d
            branches: {freed: {not_in_segment: {segment: paying}, next: done}, not_triggered: done}
          done: {kind: exit}
        """)
    await open_journeys(house, "waiting")
    with open_stores(house.settings) as others:  # another worker's, who watches the journey
        notices = Notices(others)
        async with house.serving(RUNS) as client:

            async def wait(user: str, number: int) -> None:
                """Have a user come from the delay to the wait, as so many have."""
                await skip(client, run_of(client, user), timedelta(seconds=21))
                await until(lambda: len(rows(house, waits)) == number)
                await at_rest(client, run_of(client, user))

            for user in ("u4", "u1"):
                await house.start_user(client, "waiting", user)
                await at_rest(client, run_of(client, user))
            await wait("u1", 1)
            house.load("users", "user_id,plan\nu4,free\n")
            assert await notices.look(client, "waiting") == 0
            await wait("u4", 2)
            assert branches_of(house, "waiting", "u4") == [["hold: next"]], "this answer is of before the import"
            assert await notices.look(client, "waiting") == 0, "two looks at once are one"
            notices._looked.clear()
            assert await notices.look(client, "waiting") == 1
            await left(house, "waiting", "u4")
    assert branches_of(house, "waiting", "u1") == [["hold: next"]]


async def test_a_running_journey_notices(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journey that runs looks at the tables for those who wait, again and again, though nobody tells it to."""
    monkeypatch.setattr("activities.noticing.LOOK_SECONDS", 0.5)
    save_wait(house, "freed: {not_in_segment: {segment: paying}, next: came}", up_to="30d")
    async with house.serving() as client:
        await house.engine.start("waiting", client=client)
        for user in ("u1", "u4"):
            await begin(house, client, user)
        house.load("users", "user_id,plan\nu4,free\n")
        await left(house, "waiting", "u4")
    assert branches_of(house, "waiting", "u1") == [[]]
