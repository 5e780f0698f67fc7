"""Admission: a user is inside a journey once, enters as often as its rules allow, and an answer stays as it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Table, insert, select

from activities.records.admissions import Arrival, passage_id, refusal_reason
from activities.records.database import Database
from activities.records.ledger import Ledger
from activities.records.passages import Admission
from activities.records.rows import passages, refusals
from workflows.contracts import Leave
from workflows.documents import AtMost, Reentry
from workflows.errors import StoreUnavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rows(database: Database, table: Table) -> list[Any]:
    return list(database.read(lambda connection: connection.execute(select(table)).all()))


def arrival(enrolment: str = "e1", *, rule: Reentry = "never", at: datetime = NOW, key: str = "") -> Arrival:
    return Arrival(enrolment=enrolment, journey="j", version=1, entry="start", reentry=rule, at=at, key=key)


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


def test_passage_ids_are_apart() -> None:
    """Enrolment, user and key each make another passage, and the same three the same one."""
    asked = [("e", "u"), ("e", "u", "k"), ("e2", "u"), ("e", "u2"), ("e", "uk")]
    assert len({passage_id(*one) for one in asked}) == len(asked)
    assert passage_id("e", "u") == passage_id("e", "u")


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
