"""The ledger: answers after the commit, the first answer wins, and the numbers add up."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, create_engine, event, func, insert, select
from sqlalchemy.engine import make_url

from activities.life import stats_of
from activities.records import gate
from activities.records.admissions import Arrival, passage_id, refusal_reason
from activities.records.database import Database
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from activities.records.passages import Admission
from activities.records.rows import passages, refusals, steps
from tests.house import House
from workflows.contracts import Leave, Outcome, Visit
from workflows.documents import AtMost, Reentry
from workflows.errors import StoreUnavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

notes = Table(
    "notes",
    MetaData(),
    Column("note", Integer, primary_key=True, autoincrement=False),
    Column("by", String(20), nullable=False),
)
"""A table for the database's own laws: it knows nothing of journeys."""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = open_database(database_url)
    yield found
    found.close()


def open_database(url: str) -> Database:
    found = Database(url)
    found.create()
    found.write_now(notes.metadata.create_all)
    return found


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def write_note(number: int, by: str = "") -> Any:
    return lambda connection: connection.execute(insert(notes).values(note=number, by=by)).rowcount


def noted(database: Database) -> set[int]:
    return {row.note for row in database.read(lambda connection: connection.execute(select(notes.c.note)).all())}


def rows(database: Database, table: Table) -> list[Any]:
    return list(database.read(lambda connection: connection.execute(select(table)).all()))


class Held:
    """Holds the writer within a request, until told to go on."""

    def __init__(
        self, database: Database, keys: list[str] | None = None, then: Callable[[Connection], Any] | None = None
    ) -> None:
        self._begun, self._go, self._then = threading.Event(), threading.Event(), then
        self.done = asyncio.create_task(database.write(self._work, keys))

    def _work(self, connection: Connection) -> None:
        self._begun.set()
        assert self._go.wait(10)
        if self._then is not None:
            self._then(connection)

    async def begun(self) -> None:
        await asyncio.to_thread(self._begun.wait, 10)

    def go(self) -> None:
        self._go.set()


@pytest.fixture
def commits_seen(database: Database) -> Iterator[Callable[[], set[int]]]:
    """Reads what another program sees: only what is committed."""
    url = make_url(database.url)
    other = create_engine(url if url.drivername == "sqlite" else url.set(drivername="postgresql+psycopg"))

    def seen() -> set[int]:
        with other.connect() as connection:
            return set(connection.execute(select(notes.c.note)).scalars())

    yield seen
    other.dispose()


async def test_an_answer_comes_after_the_commit(database: Database, commits_seen: Callable[[], set[int]]) -> None:
    """Each of 500 concurrent writes is visible to others when its caller has the answer; commits are shared."""
    groups: set[int] = set()

    async def one(number: int) -> None:
        await database.write(write_note(number))
        seen = await asyncio.to_thread(commits_seen)
        assert number in seen
        groups.add(len(seen))

    held = Held(database)
    await held.begun()
    writing = [asyncio.create_task(one(number)) for number in range(500)]
    await asyncio.sleep(0.1)
    assert commits_seen() == set()
    held.go()
    await asyncio.gather(held.done, *writing)
    assert groups == {500}, "those who wait at one moment share one commit"


async def test_one_bad_request_fails_alone(database: Database) -> None:
    """In one group, a request that breaks a constraint and one that raises fail; all others are committed, once."""
    held = Held(database)
    await held.begun()
    works = [write_note(number) for number in range(20)]
    works[7], works[11] = write_note(3), _explode
    writing = [asyncio.create_task(database.write(work)) for work in works]
    await asyncio.sleep(0.05)
    held.go()
    answers = await asyncio.gather(*writing, return_exceptions=True)
    assert isinstance(answers[7], StoreUnavailable)
    assert "UNIQUE" in str(answers[7]).upper()
    assert isinstance(answers[11], ZeroDivisionError)
    assert [answer for number, answer in enumerate(answers) if number not in (7, 11)] == [1] * 18
    assert noted(database) == set(range(20)) - {7, 11}


def _explode(connection: Connection) -> None:
    connection.execute(insert(notes).values(note=999, by="half"))
    raise ZeroDivisionError


async def test_a_caller_who_gave_up_is_not_written_for(database: Database) -> None:
    """A request whose caller is cancelled while it waits in the queue is never carried out; its neighbours are."""
    held = Held(database)
    await held.begun()
    writing = [asyncio.create_task(database.write(write_note(number))) for number in range(3)]
    await asyncio.sleep(0.05)
    writing[1].cancel()
    await asyncio.sleep(0)
    held.go()
    await asyncio.gather(*writing, return_exceptions=True)
    assert noted(database) == {0, 2}


async def test_an_outage_is_said_and_ends(tmp_path: Path) -> None:
    """While another program holds the file, writes fail soon, saying what to do; readers read; then all is well."""
    database = open_database(f"sqlite:///{tmp_path / 'ledger.db'}")
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answers = await asyncio.wait_for(
        asyncio.gather(*(database.write(write_note(number)) for number in range(100)), return_exceptions=True), 3
    )
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert "no other program holds the file" in str(answers[0])
    assert noted(database) == set()
    other.rollback()
    other.close()
    await database.write(write_note(1))
    assert noted(database) == {1}
    database.close()


def test_closing_commits_what_waits(database: Database, commits_seen: Callable[[], set[int]]) -> None:
    """Closing the database answers every write that was asked for before, and refuses those after."""

    async def work() -> None:
        writing = [asyncio.create_task(database.write(write_note(number))) for number in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(database.close)
        await asyncio.gather(*writing)
        with pytest.raises(StoreUnavailable, match="stopping"):
            await database.write(write_note(99))

    asyncio.run(work())
    assert commits_seen() == set(range(50))


def _write_many(url: str, by: str, begin: int, ready: Any) -> None:
    """Read, then write, in many small transactions: what a deferred transaction fails at."""
    database = Database(url)
    ready.wait()
    for number in range(begin, begin + 150):

        def work(connection: Connection, number: int = number) -> None:
            connection.execute(select(func.count()).select_from(notes)).scalar_one()
            connection.execute(insert(notes).values(note=number, by=by))

        database.write_now(work)
    database.close()


def test_two_processes_write_at_once(database: Database) -> None:
    """Two processes that read and then write in each transaction, at once: no write of either fails."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    writers = [
        context.Process(target=_write_many, args=(database.url, f"p{begin}", begin, ready)) for begin in (0, 1_000)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert noted(database) == {*range(150), *range(1_000, 1_150)}


# --- Admission --------------------------------------------------------------------------------------------------


def arrival(enrolment: str = "e1", *, rule: Reentry = "never", at: datetime = NOW, key: str = "") -> Arrival:
    return Arrival(enrolment=enrolment, journey="j", version=1, entry="start", reentry=rule, at=at, key=key)


def visit(passage: str, step: int = 1, **changed: Any) -> Visit:
    given = {"journey": "j", "version": 1, "digest": "d", "element": "split", "user_id": "u1", "now": NOW}
    return Visit(**{**given, "passage": passage, "step": step, **changed})


async def admit_one(ledger: Ledger, where: Arrival, user: str = "u1") -> Admission:
    (admission,) = await ledger.admit(where, [user])
    return admission


async def leave(ledger: Ledger, admission: Admission, at: datetime = NOW) -> None:
    await ledger.close({admission.passage: Leave(exit="done", reason="end")}, at)


async def test_a_page_admitted_twice_has_the_same_answers(ledger: Ledger) -> None:
    """Admitting a page again, in part begun and closed, gives the same passages and refusals, and adds no row."""
    await leave(ledger, await admit_one(ledger, arrival("before"), "u3"))
    page = [f"u{n}" for n in range(6)]
    first = await ledger.admit(arrival(), page)
    assert [one.refused for one in first] == ["", "", "", "entered-before", "", ""]
    await ledger.begin(first[0].passage, NOW, None)
    await leave(ledger, first[1])
    again = await ledger.admit(arrival(at=NOW + timedelta(days=1)), page)
    assert [(one.passage, one.user_id, one.refused) for one in again] == [
        (one.passage, one.user_id, one.refused) for one in first
    ]
    assert [one.started for one in again] == [True, False, False, False, False, False]
    assert again[1].left == Leave(exit="done", reason="end")
    assert len(rows(ledger.database, passages)) == 6
    assert [(row.user_id, row.reason) for row in rows(ledger.database, refusals)] == [("u3", "entered-before")]
    assert ledger.enrolled("e1") == (5, 1)


async def test_admissions_at_once_open_one_passage(ledger: Ledger) -> None:
    """50 enrolments that admit the same user at once open one passage; the other 49 are refused as already-inside."""
    admissions = await asyncio.gather(*(admit_one(ledger, arrival(f"e{n}", rule="after_exit")) for n in range(50)))
    assert sorted(one.refused for one in admissions) == ["", *["already-inside"] * 49]
    assert len(rows(ledger.database, passages)) == 1


async def test_the_database_itself_allows_one_open_passage(ledger: Ledger) -> None:
    """A second open passage of one journey, user and key breaks an index; another key or a closed one does not."""
    first = await admit_one(ledger, arrival())

    def row(passage: str, **changed: Any) -> Any:
        values = {"passage": passage, "journey": "j", "version": 1, "user_id": "u1", "key": "", "entry": "start"}
        values |= {"enrolment": "x", "entered_at": "2026-03-01T12:00:00.000000Z", "started": 0} | changed
        values["entered_version"] = values["version"]
        return lambda connection: connection.execute(insert(passages).values(values))

    with pytest.raises(StoreUnavailable, match=r"(?i)unique"):
        await ledger.database.write(row("second"))
    await ledger.database.write(row("other-key", key="order-1"))
    await ledger.database.write(row("other-user", user_id="u2"))
    await leave(ledger, first)
    await ledger.database.write(row("second"))


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("rule", "earlier", "reason"),
    [
        # Each earlier passage: how long ago it was entered, and whether it is closed.
        ("never", [], ""),
        ("never", [(HOUR, True)], "entered-before"),
        ("never", [(24 * 4_000 * HOUR, True)], "entered-before"),
        ("never", [(HOUR, False)], "already-inside"),
        ("after_exit", [], ""),
        ("after_exit", [(timedelta(0), True), (HOUR, True)], ""),
        ("after_exit", [(HOUR, True), (2 * HOUR, False)], "already-inside"),
        (AtMost(at_most=1, per="1d"), [], ""),
        (AtMost(at_most=1, per="1d"), [(HOUR, True)], "too-often"),
        (AtMost(at_most=1, per="1d"), [(24 * HOUR - timedelta(microseconds=1), True)], "too-often"),
        (AtMost(at_most=1, per="1d"), [(24 * HOUR, True)], ""),
        (AtMost(at_most=1, per="1d"), [(25 * HOUR, False)], "already-inside"),
        (AtMost(at_most=2, per="1d"), [(HOUR, True), (25 * HOUR, True)], ""),
        (AtMost(at_most=2, per="1d"), [(HOUR, True), (2 * HOUR, True)], "too-often"),
        (AtMost(at_most=2, per="1d"), [(HOUR, True), (24 * HOUR, True), (30 * HOUR, True)], ""),
    ],
)
async def test_reentry(ledger: Ledger, rule: Reentry, earlier: list[tuple[timedelta, bool]], reason: str) -> None:
    """Each rule answers from what the ledger holds, an instant exactly one period ago lying outside the period."""
    for number, (ago, closed) in enumerate(sorted(earlier, reverse=True)):
        # Admitted under the freest rule; an open one has to be the last.
        values = {"passage": f"p{number}", "journey": "j", "version": 1, "user_id": "u1", "key": "", "entry": "start"}
        entered = (NOW - ago).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        values |= {"enrolment": "x", "entered_at": entered, "started": 1, "closed_at": entered if closed else None}
        values |= {"reason": "end" if closed else None, "entered_version": 1}
        await ledger.database.write(lambda connection, row=values: connection.execute(insert(passages).values(row)))
    admission = await admit_one(ledger, arrival(rule=rule))
    assert admission.refused == reason
    assert (await admit_one(ledger, arrival("elsewhere", rule=rule), "u2")).refused == ""
    assert (await admit_one(ledger, arrival("e1", rule=rule, key="order-1"))).refused == ""


async def test_a_cap_on_entries_counts_every_key(ledger: Ledger) -> None:
    """Beside any re-entry rule, a cap lets in each user so often in its period, whatever the keys."""
    cap = AtMost(at_most=2, per="1d")

    async def enter(number: int, at: datetime, user: str = "u1", key: str = "") -> str:
        where = replace(arrival(f"e{number}", rule="after_exit", at=at, key=key or f"order-{number}"), cap=cap)
        return (await admit_one(ledger, where, user)).refused

    assert [await enter(1, NOW), await enter(2, NOW + HOUR), await enter(3, NOW + 2 * HOUR)] == ["", "", "too-often"]
    assert await enter(3, NOW + 30 * HOUR) == "too-often", "what was refused stays refused"
    assert await enter(4, NOW + 2 * HOUR, "u2") == ""
    # The first entry leaves the period after a day, to the instant.
    assert await enter(5, NOW + 24 * HOUR - timedelta(microseconds=1)) == "too-often"
    assert await enter(6, NOW + 24 * HOUR) == ""
    assert await enter(7, NOW + 24 * HOUR) == "too-often"
    # The re-entry rule is asked first: who is inside is told so, however often he came.
    assert await enter(8, NOW + 24 * HOUR, key="order-6") == "already-inside"


def test_reentry_reads_instants_in_order_of_time() -> None:
    """The instants of the rule are compared as time, across a year's end and down to the microsecond."""
    rule = AtMost(at_most=1, per="1d")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert refusal_reason(rule, [("2025-12-31T00:00:00.000001Z", "2025-12-31T01:00:00.000000Z")], at) == "too-often"
    assert refusal_reason(rule, [("2025-12-31T00:00:00.000000Z", "2025-12-31T01:00:00.000000Z")], at) == ""


async def test_what_was_admitted_is_not_refused_afterwards(ledger: Ledger) -> None:
    """A run's own admission that is asked for again after the journey ended stays an admission, and the reverse."""
    await ledger.admit(arrival("p1"), ["u1"], "p1")
    assert await ledger.refuse(arrival("p1"), "u1", "p1", "not-running") == ""
    assert rows(ledger.database, refusals) == []
    assert await ledger.refuse(arrival("p2"), "u2", "p2", "not-running") == "not-running"
    assert await ledger.refuse(arrival("p2"), "u2", "p2", "unknown-user") == "not-running"
    (later,) = await ledger.admit(arrival("p2"), ["u2"], "p2")
    assert later.refused == "not-running"


# --- Outcomes ---------------------------------------------------------------------------------------------------


async def test_the_first_answer_wins(ledger: Ledger) -> None:
    """60 answers to one step at once: all callers get the one that is stored, with its leave alone."""
    passage = (await admit_one(ledger, arrival())).passage

    async def answer(number: int) -> Outcome:
        given = Outcome(branch=f"b{number}", because=f"n{number}", left=Leave(exit=f"x{number}", reason="end"))
        return await ledger.record(visit(passage), given, outcome="accepted")

    answers = await asyncio.gather(*(answer(number) for number in random.Random(7).sample(range(60), 60)))
    (step,) = rows(ledger.database, steps)
    number = step.branch.removeprefix("b")
    stored = Outcome(branch=f"b{number}", because=f"n{number}", left=Leave(exit=f"x{number}", reason="end"))
    assert all(one == stored for one in answers)
    (row,) = rows(ledger.database, passages)
    assert (row.exit, row.reason) == (f"x{number}", "end")
    later = await ledger.record(visit(passage, now=NOW + HOUR), Outcome(branch="late"), outcome="late")
    assert later == stored


async def test_leaving_happens_once(ledger: Ledger) -> None:
    """A passage that is closed keeps its first reason, whether its run or the reconciler closes it again."""
    passage = (await admit_one(ledger, arrival())).passage
    await ledger.close({passage: Leave(exit="", reason="terminated")}, NOW)
    answer = Outcome(branch="next", left=Leave(exit="done", reason="end"))
    await ledger.record(visit(passage), answer, outcome="next")
    await ledger.close({passage: Leave(exit="", reason="failed")}, NOW + HOUR)
    (row,) = rows(ledger.database, passages)
    assert (row.exit, row.reason, row.closed_at) == (None, "terminated", "2026-03-01T12:00:00.000000Z")


class Crowd:
    """Writes a random life of many users into a ledger, and keeps its own count of how they left."""

    def __init__(self, house: House, seed: int) -> None:
        self.dice = random.Random(seed)
        self.version = house.stores.catalogue.find("journey", "hello").version
        self.ledger = house.stores.ledger
        self.inside: dict[str, str] = {}
        self.refused = 0
        self.left: Counter[str] = Counter()

    async def enter(self, enrolment: str) -> None:
        where = Arrival(enrolment, "hello", self.version, "start", "after_exit", NOW)
        page = self.dice.sample([f"n{number}" for number in range(40)], 30)
        for admission in await self.ledger.admit(where, page):
            if admission.refused:
                self.refused += 1
            else:
                self.inside[admission.passage] = admission.user_id

    async def live(self, passage: str) -> None:
        """Have one user stay, get somewhere, leave by an exit, or be stopped where he is."""
        how = self.dice.choice(["stay", "loyal", "promo", "done", "stopped", "stopped in promo"])
        if how == "done":
            await self._step(passage, 1, "loyal", Outcome(branch="all_other_users", left=DONE))
        if how in ("loyal", "promo", "stopped in promo"):
            await self._step(passage, 1, "loyal", Outcome(branch="users_in_segment"))
        if how == "promo":
            await self._step(passage, 2, "promo", Outcome(branch="next", left=DONE))
        if how.startswith("stopped"):
            await self.ledger.close({passage: Leave(exit="", reason="terminated")}, NOW)
            self._gone(passage, "terminated")

    async def _step(self, passage: str, step: int, element: str, answer: Outcome) -> None:
        where = visit(passage, step, journey="hello", element=element, user_id=self.inside[passage])
        stored = await self.ledger.record(where, answer, outcome="x")
        if stored.left is not None:  # Else the user went another way before, which wins.
            self._gone(passage, "end")

    def _gone(self, passage: str, reason: str) -> None:
        self.left[reason] += 1
        del self.inside[passage]


DONE = Leave(exit="done", reason="end")


@pytest.mark.parametrize("seed", range(12))
async def test_the_numbers_add_up(house: House, seed: int) -> None:
    """Whatever mix of refusals, visits, ends and terminations the ledger holds, the laws of the numbers are kept."""
    await require_sums(house, seed)


async def require_sums(house: House, seed: int) -> None:
    crowd = Crowd(house, seed)
    for enrolment in ("a", "b"):
        await crowd.enter(enrolment)
        for passage in [one for one in crowd.inside if crowd.dice.random() < 0.9]:
            await crowd.live(passage)
    stats = stats_of(house.stores, "hello")
    assert (stats.exited, stats.inside) == (crowd.left, len(crowd.inside))
    assert (sum(stats.refused.values()), stats.audience) == (crowd.refused, 60)
    assert stats.audience == stats.entered + crowd.refused
    assert stats.entered == stats.inside + sum(stats.exited.values())
    for element in stats.elements.values():
        assert min(element.arrived, element.inside, *element.branches.values(), *element.left.values()) >= 0
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values())
    assert sum(element.inside for element in stats.elements.values()) == stats.inside
    assert sum((Counter(element.left) for element in stats.elements.values()), Counter()) == crowd.left


def test_passage_ids_are_apart() -> None:
    """Enrolment, user and key each make another passage, and the same three the same one."""
    asked = [("e", "u"), ("e", "u", "k"), ("e2", "u"), ("e", "u2"), ("e", "uk")]
    assert len({passage_id(*one) for one in asked}) == len(asked)
    assert passage_id("e", "u") == passage_id("e", "u")


async def test_a_copy_that_came_too_late_is_not_trusted(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a slow database said of pauses is as old as the question: too old to be trusted, it lets nobody act."""
    await ledger.open_journey("j", 1, "d", "launch", NOW)
    found = Gate(database)
    assert (await found.lives())["j"].state == "running"
    monkeypatch.setattr(gate, "COPY_SECONDS", 0.05)
    monkeypatch.setattr(gate, "TRUST_SECONDS", 0.1)

    def slowly(*_: Any) -> None:
        time.sleep(0.2)

    await asyncio.sleep(0.1)
    event.listen(database._reading, "before_cursor_execute", slowly)
    try:
        with pytest.raises(StoreUnavailable, match="to say which journeys are paused"):
            await found.lives()
    finally:
        event.remove(database._reading, "before_cursor_execute", slowly)
    assert (await found.lives())["j"].state == "running"


async def test_a_pause_of_long_ago_costs_nothing(database: Database, ledger: Ledger) -> None:
    """Whoever comes a day after a pause is not asked whether it held him; who was woken, or waits, is."""
    await ledger.open_journey("j", 1, "d", "launch", NOW)
    found = Gate(database)
    assert not (await found.lives())["j"].may_have_held(visit("p", woken=True))
    await found.pause("j", NOW)
    await found.resume("j", "now", NOW)
    await found.renew()
    life = (await found.lives())["j"]
    assert life.resumed_at == NOW
    asked = [life.may_have_held(visit("p", **said)) for said in ({}, {"woken": True}, {"until": NOW})]
    assert asked == [False, True, True]
    await found.pause("j", datetime.now(UTC))
    await found.resume("j", "now", datetime.now(UTC))
    await found.renew()
    assert (await found.lives())["j"].may_have_held(visit("p"))


async def test_an_admission_meets_a_revision(ledger: Ledger) -> None:
    """Asked in a version that was revised, an admission admits nobody and refuses nobody; not running, it refuses."""
    await ledger.open_journey("j", 2, "d", "launch", NOW)
    asked = replace(arrival(), while_running=True)
    assert await ledger.admit(asked, ["u1"]) == []
    assert (rows(ledger.database, passages), rows(ledger.database, refusals)) == ([], [])
    (admitted,) = await ledger.admit(replace(asked, version=2), ["u1"])
    assert (admitted.refused, admitted.version) == ("", 2)
    await ledger.finish_journey("j", "launch", NOW)
    (refused,) = await ledger.admit(asked, ["u2"])
    assert refused.refused == "not-running"
