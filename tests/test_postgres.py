"""The ledger on a real PostgreSQL server, written by two hosts at once: nobody enters, is sent or is numbered twice.

What is the same on both databases is tested for each in test_database, test_admission, test_ledger, test_migrations.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from activities.events.waiting import Waits
from activities.push.claims import Cap, Claims
from activities.push.rates import Rates
from activities.records import database as database_module
from activities.records.admissions import Arrival
from activities.records.catalogue import Catalogue, ImportedSegment
from activities.records.database import Database
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from activities.records.outcomes import CLAIMED
from activities.records.reports import explain, list_pushes
from activities.records.rows import passages, pushes, refusals
from activities.upkeep import needed_versions
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from tests.postgres import PASSWORD, PostgresServer
from tests.test_database import Held, noted, notes, open_database, write_note
from tests.test_events import RUNS, left, open_journeys
from tests.test_ledger import require_sums
from tests.worker_that_dies import until
from workflows.contracts import Outcome, Visit
from workflows.errors import RefusedError, StoreUnavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def hosts(postgres: PostgresServer) -> Iterator[tuple[Database, Database]]:
    """Two hosts' databases: each has a writer and connections of its own."""
    url = postgres.create()
    found = open_database(url), open_database(url)
    yield found
    for one in found:
        one.close()


def visit(passage: str, **changed: Any) -> Visit:
    given = {"journey": "j", "version": 1, "digest": "d", "element": "promo", "user_id": "u1", "now": NOW, "step": 1}
    return Visit(**{**given, "passage": passage, **changed})


async def test_two_hosts_admit_each_user_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts admit overlapping pages of the same users at once: each user has one passage, and no page fails."""
    dice = random.Random(11)
    users = [f"u{number}" for number in range(60)]
    asked = [
        Ledger(host).admit(Arrival(f"e{page}/{number}", "j", 1, "start", "never", NOW), dice.sample(users, 40))
        for page in range(12)
        for number, host in enumerate(hosts)
    ]
    answers = [one for page in await asyncio.gather(*asked) for one in page]
    assert Counter(one.user_id for one in answers if not one.refused) == Counter(users)
    assert len(answers) == 24 * 40
    entered, refused = (
        hosts[0].read(
            lambda connection, table=table: connection.execute(select(func.count()).select_from(table)).scalar()
        )
        for table in (passages, refusals)
    )
    assert (entered, refused) == (60, 24 * 40 - 60)


async def test_two_hosts_answer_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts answer the same 40 visits at once, differently: each visit has one answer, and both give that one."""
    arrival = Arrival("e", "j", 1, "start", "never", NOW)
    admitted = await Ledger(hosts[0]).admit(arrival, [f"u{number}" for number in range(40)])

    async def answer(host: Database, said: str) -> list[Outcome]:
        ledger = Ledger(host)
        visits = [visit(one.passage, user_id=one.user_id) for one in admitted]
        return await asyncio.gather(*(ledger.record(one, Outcome(branch=said), outcome=said) for one in visits))

    one, two = await asyncio.gather(answer(hosts[0], "one"), answer(hosts[1], "two"))
    assert one == two


def push_row(passage: str, user: str, device: str) -> dict[str, Any]:
    row = {"passage": passage, "step": 1, "device_id": device, "journey": "j", "version": 1, "element": "promo"}
    row |= {"user_id": user, "at": "2026-03-01T12:00:00.000000Z", "provider": "apns", "outcome": CLAIMED}
    return {**row, "title": "Hi", "message": "{}"}


def unfinished(_: Counter[str]) -> tuple[Outcome, str]:
    return Outcome(branch="next"), "unknown"


async def claim(host: Database, passage: str, user: str, caps: list[Cap]) -> tuple[list[str], bool]:
    """Try to claim one push to two devices; tells which to send to, and whether a cap held it back."""
    rows = [push_row(passage, user, f"{user}-{number}") for number in range(2)]
    given = visit(passage, user_id=user)
    found = await Claims(Ledger(host)).claim(given, rows, resend=False, caps=caps, finish=unfinished, now=NOW)
    return found.send, found.capped


async def test_two_hosts_claim_each_push_once(hosts: tuple[Database, Database]) -> None:
    """Two hosts claim the same pushes at once: each device is sent to by one of them."""
    tries = [claim(host, f"p{user}", f"u{user}", []) for user in range(40) for host in hosts]
    sent = Counter(device for devices, _ in await asyncio.gather(*tries) for device in devices)
    assert sent == Counter(f"u{user}-{number}" for user in range(40) for number in range(2))


async def test_two_hosts_keep_a_cap(hosts: tuple[Database, Database]) -> None:
    """Two hosts push to the same users by several journeys at once: no user gets more than the cap allows."""
    caps = [Cap(2, timedelta(days=7))]
    tries = [
        claim(host, f"p{user}-{number}-{host is hosts[0]}", f"u{user}", caps)
        for number in range(3)
        for user in range(30)
        for host in hosts
    ]
    sent = Counter(devices[0] for devices, _ in await asyncio.gather(*tries) if devices)
    assert sent == Counter({f"u{user}-0": 2 for user in range(30)})


async def test_two_hosts_share_an_allowance(hosts: tuple[Database, Database]) -> None:
    """Two hosts lease from the same second of 20 providers at once: together no more than each one's allowance."""
    leasing = [Rates(host, lambda: 1_000_000.5) for host in hosts]
    providers = [f"provider-{number}" for number in range(20)]
    for provider in providers:
        leasing[0].set_limit(provider, 300)

    async def take_all(rates: Rates, provider: str) -> int:
        taken = 0
        while await rates.take(provider, 0):
            taken += 1
        return taken

    async def together(provider: str) -> int:
        return sum(await asyncio.gather(*(take_all(rates, provider) for rates in leasing)))

    # A tenth of it, after a quiet minute.
    assert await asyncio.gather(*map(together, providers)) == [30] * 20


async def test_two_hosts_number_versions_without_a_gap(hosts: tuple[Database, Database]) -> None:
    """Two hosts save 40 contents of one segment at once: versions 1 to 40; then the same content: one version."""

    def save(host: Database, number: int) -> Any:
        imported = ImportedSegment(
            segment="vip", import_id=f"i{number}", source="vip.csv", identifier="user_id", users=number
        )
        (saved,) = Catalogue(host).save([imported], lambda _: [], NOW)
        return saved.version

    work = [asyncio.to_thread(save, hosts[number % 2], number) for number in range(40)]
    assert sorted(await asyncio.gather(*work)) == list(range(1, 41))
    again = [asyncio.to_thread(save, host, 99) for host in hosts for _ in range(4)]
    assert set(await asyncio.gather(*again)) == {41}


async def test_two_hosts_hold_nobody_behind_a_resumption(hosts: tuple[Database, Database]) -> None:
    """While one host resumes a journey, the other holds visits: who is held is known to the resumption, or goes on."""
    here, there = (Gate(host) for host in hosts)
    await Ledger(hosts[0]).open_journey("j", 1, "d", "launch", NOW)
    await here.pause("j", NOW)

    async def hold(number: int) -> bool:
        await asyncio.sleep(number / 500)
        return await here.hold(visit(f"p{number}", user_id=f"u{number}"))

    async def resume() -> set[str]:
        await asyncio.sleep(0.1)
        epoch = await there.resume("j", "now", NOW)
        return {passage for passage, *_ in there.held_by("j", epoch)}

    *held, known = await asyncio.gather(*map(hold, range(150)), resume())
    assert known == {f"p{number}" for number, one in enumerate(held) if one}
    assert 0 < len(known) < 150


async def test_two_hosts_admit_nobody_into_a_finished_journey(hosts: tuple[Database, Database]) -> None:
    """While one host ends a journey, the other admits users: who enters was counted at the end, or is refused."""
    here, there = (Ledger(host) for host in hosts)
    await here.open_journey("j", 1, "d", "launch", NOW)

    async def enter(number: int) -> bool:
        await asyncio.sleep(number / 500)
        where = Arrival(f"e{number}", "j", 1, "start", "never", NOW, while_running=True)
        (admitted,) = await here.admit(where, [f"u{number}"])
        return not admitted.refused

    async def finish() -> int:
        await asyncio.sleep(0.1)
        return await there.finish_journey("j", "launch", NOW)

    *entered, counted = await asyncio.gather(*map(enter, range(150)), finish())
    assert 0 < counted == sum(entered) < 150


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
