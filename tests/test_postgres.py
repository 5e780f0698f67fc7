"""A ledger on a real PostgreSQL server: who waits for whom, outages, refused values; journeys and events run on it.

What two hosts do at once is in test_two_hosts; what is the same on both databases is tested for each in test_database,
test_admission, test_ledger, test_migrations.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from activities.events.waiting import Waits
from activities.records import database as database_module
from activities.records.admissions import Arrival
from activities.records.database import Database
from activities.records.ledger import Ledger
from activities.records.reports import explain, list_pushes
from activities.records.rows import pushes
from activities.upkeep import needed_versions
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from tests.ledger_rows import NOW, push_row
from tests.notes import Held, noted, notes, write_note
from tests.postgres import PASSWORD, PostgresServer
from tests.test_events import RUNS, left, open_journeys
from tests.test_ledger import require_sums
from tests.worker_that_dies import until
from workflows.errors import RefusedError, StoreUnavailable


async def test_only_those_wait_who_write_of_the_same_user(hosts: tuple[Database, Database]) -> None:
    """While one host writes of a user, another writes of other users; of that user, or of everybody, it waits."""
    here, there = hosts
    held = Held(here, keys=["u1"])
    await held.begun()
    await asyncio.wait_for(there.write(write_note(1), keys=["u2"]), 5)
    for keys in (["u2", "u1"], None):
        waiting = asyncio.create_task(there.write(write_note(2), keys=keys))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        held.go()
        await waiting
        assert noted(here) == {1, 2}
        there.write_now(lambda connection: connection.execute(notes.delete().where(notes.c.note == 2)))
        held = Held(here, keys=["u1"])
        await held.begun()
    held.go()


async def test_who_waited_sees_what_the_other_wrote(hosts: tuple[Database, Database]) -> None:
    """A request that waited for another host's commit reads what that committed, though it began before."""
    held = Held(hosts[0], keys=["u1"], then=write_note(7))
    await held.begun()

    def seen(connection: Connection) -> int | None:
        return connection.execute(select(func.count()).select_from(notes)).scalar()

    waiting = asyncio.create_task(hosts[1].write(seen, keys=["u1"]))
    await asyncio.sleep(0.3)
    held.go()
    assert await waiting == 1


async def test_a_deadlock_is_tried_again(hosts: tuple[Database, Database]) -> None:
    """Two hosts that lock two rows in opposite order, which PostgreSQL ends for one of them, both succeed."""
    hosts[0].write_now(lambda connection: connection.execute(insert(notes), [{"note": n, "by": ""} for n in (1, 2)]))
    met = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()

    def crossing(first: int, second: int) -> Callable[[Connection], None]:
        tries = []

        def work(connection: Connection) -> None:
            tries.append(1)
            for number in (first, second):
                connection.execute(update(notes).where(notes.c.note == number).values(by=notes.c.by + str(first)))
                if number == first and len(tries) == 1:
                    asyncio.run_coroutine_threadsafe(met.wait(), loop).result(10)

        return work

    await asyncio.gather(hosts[0].write(crossing(1, 2), keys=["a"]), hosts[1].write(crossing(2, 1), keys=["b"]))
    found = hosts[0].read(lambda connection: set(connection.execute(select(notes.c.by)).scalars()))
    assert found in ({"12"}, {"21"})


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Database]:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.3)
    found = Database(url)
    yield found
    found.close()


async def test_a_host_that_hangs_is_not_waited_for(
    hosts: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that waits too long for another host fails as an outage, which Temporal retries, and then succeeds."""
    held = Held(hosts[0])
    await held.begun()
    with impatient(monkeypatch, hosts[0].url) as there:
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await there.write(write_note(1))
        held.go()
        await held.done
        await there.write(write_note(1))
    assert noted(hosts[0]) == {1}


async def test_reads_see_one_state(hosts: tuple[Database, Database]) -> None:
    """Within one read, what another host commits meanwhile is not seen, nor can anything be written."""

    def work(connection: Connection) -> list[int]:
        counted = select(func.count()).select_from(notes)
        before = connection.execute(counted).scalar_one()
        hosts[1].write_now(write_note(1))
        return [before, connection.execute(counted).scalar_one()]

    assert await asyncio.to_thread(hosts[0].read, work) == [0, 0]
    with pytest.raises(StoreUnavailable, match="read-only"):
        hosts[0].read(write_note(2))
    assert noted(hosts[0]) == {1}


async def test_a_stopped_server_is_an_outage(hosts: tuple[Database, Database], postgres: PostgresServer) -> None:
    """While the server is away reads and writes fail as an outage, without the password; then all is well by itself."""
    await hosts[0].write(write_note(1))
    postgres.stop()
    try:
        outages = await asyncio.wait_for(
            asyncio.gather(*(hosts[0].write(write_note(number)) for number in range(100)), return_exceptions=True), 10
        )
        with pytest.raises(StoreUnavailable) as reading:
            noted(hosts[0])
        with pytest.raises(StoreUnavailable) as opening:
            Database(hosts[0].url).create()
    finally:
        postgres.start()
    assert {type(one) for one in outages} == {StoreUnavailable}
    for said in map(str, (outages[0], reading.value, opening.value)):
        assert "tester:***@127.0.0.1" in said
        assert "see that PostgreSQL runs" in said
        assert PASSWORD not in said
    await hosts[0].write(write_note(2))
    assert noted(hosts[0]) == {1, 2}


def test_a_wrong_address_is_told_without_the_password(postgres: PostgresServer) -> None:
    """A wrong password is an outage, another kind of database is refused; no message has the secret."""
    address = postgres.create()
    for wrong in (address.replace(PASSWORD, "hunter2"), address + "-and-more"):
        with pytest.raises(StoreUnavailable) as unavailable:
            Database(wrong).create()
        assert not {word for word in ("hunter2", PASSWORD) if word in str(unavailable.value)}
    for other in ("mysql://me:hunter2@host/name", "postgresql://me:hunter2@host:port/name", "hunter2"):
        with pytest.raises(RefusedError, match="names no database") as refused:
            Database(other)
        assert "hunter2" not in f"{refused.value} {refused.value.hint}"


async def test_a_value_that_cannot_be_stored_is_refused(hosts: tuple[Database, Database]) -> None:
    """A text with NUL, or too long for an index, is refused for good, and its neighbours in the group are written."""
    held = Held(hosts[0])
    await held.begun()
    long = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    works = [write_note(1), write_note(2, "\0"), write_note(3)]
    works.append(lambda connection: connection.execute(insert(pushes), [push_row("p", "u1", long)]))
    writing = [asyncio.create_task(hosts[0].write(work)) for work in works]
    await asyncio.sleep(0.05)
    held.go()
    answers = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(answers[number]) for number in (1, 3)] == [RefusedError] * 2
    assert answers[1].code == "wrong-value"
    assert noted(hosts[0]) == {1, 3}


async def test_no_users_id_stops_the_others(hosts: tuple[Database, Database]) -> None:
    """Ids that are over any limit or hold NUL are refused, each counted apart, and everybody else is admitted."""
    long = "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    strange = [long, long + "x", "語" * 400, "nul\0", "nul\0more"]
    arrival = Arrival("e", "j", 1, "start", "never", NOW)
    for _ in range(2):
        answers = await Ledger(hosts[0]).admit(arrival, ["u1", *strange, "x" * 980])
        assert [one.refused for one in answers] == ["", *["id-too-long"] * 3, *["wrong-id"] * 2, ""]
    assert Ledger(hosts[0]).enrolled("e") == (2, 5)
    asked = Arrival("own", "j", 1, "start", "never", NOW)
    assert await Ledger(hosts[0]).refuse(asked, "nul\0", "own", "unknown-user") == "unknown-user"


@pytest.fixture
def distant(
    tmp_path: Path, address: str, namespace: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """The sample's house, with catalogue and ledger on PostgreSQL by the setting alone."""
    monkeypatch.setenv("JOURNEYS_DATABASE", postgres.create())
    with open_house(tmp_path / "home", address, namespace) as house:
        house.load("users", USERS)
        house.load("devices", DEVICES)
        house.save(SAMPLE_DOCUMENTS)
        yield house


@pytest.mark.parametrize("seed", range(3))
async def test_the_numbers_add_up(distant: House, seed: int) -> None:
    """PostgreSQL counts as SQLite does: the laws of the numbers are kept for random lives of many users."""
    await require_sums(distant, seed)


async def test_a_journey_runs_on_postgresql(distant: House) -> None:
    """With JOURNEYS_DATABASE set, a journey runs to its end, its numbers are right, and nothing is kept in SQLite."""
    house, ledger = distant, distant.stores.ledger.database
    plan = house.engine.plan("hello")
    async with house.serving() as client:
        report = await house.engine.start("hello", client=client)
        stats = await house.engine.result(report, client=client)
    assert (plan.audience, stats.audience, stats.entered, stats.inside) == (4, 4, 4, 0)
    assert stats.elements["loyal"].branches == {"users_in_segment": 3, "all_other_users": 1}
    assert stats.elements["promo"].users == {"accepted": 2, "skipped: no-reachable-device": 1}
    assert [step.element for step in explain(ledger, "hello", "u1").runs[0].steps] == ["loyal", "promo"]
    assert list_pushes(ledger, journey="hello").total == 3
    assert needed_versions(ledger) == {}
    assert [saved.name for saved in house.stores.catalogue.newest("segment")] == ["grown", "paying"]
    assert ledger.read(lambda connection: connection.execute(text("SELECT version()")).scalar_one()).startswith("Post")
    assert list(house.settings.home.glob("*.db*")) == []


async def test_events_on_postgresql(distant: House) -> None:
    """On PostgreSQL too an event given by two processes at once starts one run, and a later one ends its wait."""
    distant.save("""\
        journey: waiting
        entries: {start: {kind: trigger-entry, trigger: {event: begin}, next: wait}}
        elements:
          wait:
            kind: wait-for-trigger
            up_to: 1d
            branches: {x: {trigger: {event: a}, next: done}, not_triggered: out}
          out: {kind: exit}
          done: {kind: exit}
        """)
    await open_journeys(distant, "waiting")
    ledger = distant.stores.ledger.database
    async with distant.serving(RUNS) as client:
        twice = [distant.engine.event(user, "begin", event_id=user, client=client) for user in ("u1", "u4") * 2]
        assert {answer.event_id for answer in await asyncio.gather(*twice)} == {"u1", "u4"}
        for user in ("u1", "u4"):
            await until(lambda user=user: Waits(distant.stores.ledger).open_waits([user]))
            assert (await distant.engine.event(user, "a", client=client)).delivered == 1
            await left(distant, "waiting", user)
    assert [run.exit for user in ("u1", "u4") for run in explain(ledger, "waiting", user).runs] == ["done", "done"]
    assert distant.stores.tables.row_count("events") == 4
