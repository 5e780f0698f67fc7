"""Upkeep, by hand and by a schedule: the ledger forgets what is long over, and tells what a table is needed for."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Connection, select
from temporalio.client import Client, ScheduleOverlapPolicy, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError

from activities.records.admissions import Arrival
from activities.records.ledger import Evidence
from activities.records.rows import held, hits, instant, taken, waits
from activities.upkeep import needed_versions, tidy_tables
from scripts.cli import run
from tests.house import House
from workflows.contracts import JOURNEYS_QUEUE, Audience, Leave, Outcome, Visit
from workflows.upkeep import UpkeepInput, UpkeepReport

DAY = timedelta(days=1)


async def test_what_the_ledger_still_needs(house: House) -> None:
    """Versions that decided about users inside are needed, until those have left; so are unfinished enrolments'."""
    ledger, at = house.stores.ledger, datetime.now(UTC)
    await ledger.open_journey("hello", 1, "digest", "launch", at)
    audience = Audience(enrolment="e", users=2, as_of=at, tables={"users": 3, "events": -1})
    await ledger.open_enrolment("e", "hello", 1, "start", audience)
    assert needed_versions(ledger.database) == {"users": {3}, "events": {-1}}
    arrival = Arrival(enrolment="e", journey="hello", version=1, entry="start", reentry="never", at=at)
    first, second = await ledger.admit(arrival, ["u1", "u2"])
    await ledger.page_done("e", [], 2)
    visit = Visit(
        journey="hello", version=1, digest="d", passage=first.passage, step=1, element="loyal", user_id="u1", now=at
    )
    await ledger.record(visit, Outcome(branch="x"), outcome="x", evidence=Evidence({"users": 5}, at))
    assert needed_versions(ledger.database) == {"users": {3, 5}, "events": {-1}}
    await ledger.close({first.passage: Leave(exit="done", reason="end")}, at)
    assert needed_versions(ledger.database) == {"users": {3}, "events": {-1}}
    await ledger.close({second.passage: Leave(exit="done", reason="end")}, at)
    assert needed_versions(ledger.database) == {}


async def test_the_workflow_tidies_and_tells(house: House) -> None:
    """The workflow `Upkeep` on the queue of journeys compacts, and returns what it did to each table."""
    house.load("users", "user_id,plan\nu7,paid\n")
    async with house.serving((JOURNEYS_QUEUE,)) as client:
        result = await client.execute_workflow(
            "Upkeep", UpkeepInput(), id="upkeep-now", task_queue=JOURNEYS_QUEUE, result_type=UpkeepReport
        )
        done = {one.table: (one.files_before, one.files_after, one.vacuumed) for one in result.tables}
        assert done == {"users": (2, 1, 0), "devices": (1, 1, 0)}
        with pytest.raises(WorkflowFailureError) as refused:
            await client.execute_workflow(
                "Upkeep", UpkeepInput(retain="soon"), id="upkeep-bad", task_queue=JOURNEYS_QUEUE
            )
    assert "'soon' is no duration" in str(refused.value.cause.__cause__)
    assert house.stores.tables.row_count("users") == 7


async def test_audiences_are_removed_when_nobody_enters_from_them(house: House) -> None:
    """A snapshot goes after its time, when all its users were dealt with or its journey is over; not before."""
    ledger, at = house.stores.ledger, datetime.now(UTC)
    for journey, cursor in (("hello", 2), ("half", 1), ("over", 1)):
        await ledger.open_journey(journey, 1, "digest", f"launch-{journey}", at)
        audience = Audience(enrolment=f"launch-{journey}/start", users=2, as_of=at, tables={"users": 0})
        await ledger.open_enrolment(audience.enrolment, journey, 1, "start", audience)
        await ledger.page_done(audience.enrolment, [], cursor)
    await ledger.finish_journey("over", "launch-over", at)
    folder = house.stores.snapshots
    folder.mkdir()
    old = (at - 8 * DAY).timestamp()
    for journey in ("hello", "half", "over", "lost"):
        path = folder / f"{quote(f'launch-{journey}/start', safe='')}.parquet"
        path.write_bytes(b"")
        os.utime(path, (old, old))
    (folder / "young.parquet").write_bytes(b"")
    assert tidy_tables(house.stores, UpkeepInput(dry_run=True)).snapshots == 3
    assert len(list(folder.iterdir())) == 5
    assert tidy_tables(house.stores, UpkeepInput(retain="9d")).snapshots == 0
    assert tidy_tables(house.stores, UpkeepInput()).snapshots == 3
    assert sorted(path.name for path in folder.iterdir()) == ["launch-half%2Fstart.parquet", "young.parquet"]


def test_the_ledger_forgets_events_that_were_done_long_ago(house: House) -> None:
    """Events go from the ledger 100 days after they were taken, where they are stored and done; others stay."""
    now = datetime.now(UTC)
    rows = [
        {
            "event_id": f"{days}-{stored}-{done}",
            "user_id": "u1",
            "event": "purchase",
            "at": instant(now - days * DAY),
            "taken_at": instant(now - days * DAY),
            "properties": "{}",
            "stored": stored,
            "done": done,
        }
        for days, stored, done in ((99, 1, 1), (101, 1, 1), (102, 1, 1), (101, 0, 0), (101, 1, 0))
    ]
    database = house.stores.ledger.database
    database.write_now(lambda connection: connection.execute(taken.insert(), rows))
    assert tidy_tables(house.stores, UpkeepInput(dry_run=True)).events == 2
    assert tidy_tables(house.stores, UpkeepInput()).events == 2
    left = database.read(lambda connection: connection.execute(select(taken.c.event_id)).scalars().all())
    assert sorted(left) == ["101-0-0", "101-1-0", "99-1-1"]
    assert tidy_tables(house.stores, UpkeepInput()).events == 0


async def test_the_ledger_forgets_waits_of_those_who_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user waited for, and what held him, goes some days after he left; of those inside it stays."""
    monkeypatch.setattr("activities.upkeep.STAYS_AT_ONCE", 2)
    ledger, now = house.stores.ledger, datetime.now(UTC)
    where = Arrival("e", "j", 1, "start", "never", now - 90 * DAY)
    admitted = [one.passage for one in await ledger.admit(where, [f"u{number}" for number in range(7)])]
    for number, passage in enumerate(admitted[:6]):
        await ledger.close({passage: Leave(exit="", reason="removed")}, now - (30 if number < 5 else 3) * DAY)
    common = {"journey": "j", "element": "wait", "user_id": "u", "key": ""}
    wait = {"version": 1, "digest": "d", "begun_at": instant(now), "deadline": instant(now), "open": 0}
    hit = {"branch": "came", "place": 0, "event_id": "e", "at": instant(now), "properties": "{}"}
    hold = {"epoch": 1, "due_at": instant(now), "signalled": 1}

    def write(connection: Connection) -> None:
        for passage in admitted:
            for step in (1, 2):
                own = {"passage": passage, "step": step}
                connection.execute(waits.insert(), {**common, **own, **wait})
                connection.execute(hits.insert(), {**own, **hit})
                connection.execute(held.insert(), {**common, **own, **hold})

    ledger.database.write_now(write)
    assert tidy_tables(house.stores, UpkeepInput(dry_run=True)).waits == 30
    assert tidy_tables(house.stores, UpkeepInput()).waits == 30
    for table in (waits, hits, held):
        query = select(table.c.passage).distinct()
        left = ledger.database.read(lambda connection, query=query: connection.execute(query).scalars().all())
        assert sorted(left) == sorted(admitted[5:])
    assert tidy_tables(house.stores, UpkeepInput()).waits == 0


def command(house: House, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `journeys upkeep` in the house, as a person would."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("JOURNEYS_HOME", str(house.settings.home))
        patch.setenv("TEMPORAL_ADDRESS", house.address)
        patch.setenv("TEMPORAL_NAMESPACE", house.namespace)
        patch.setattr(sys, "argv", ["journeys", "upkeep", "--json", *arguments])
        status = run()
    return status, json.loads(said.getvalue())


def test_the_command(house: House) -> None:
    """The command does what it foretold in a dry run, and refuses what is no duration or too short a one."""
    house.load("users", "user_id,plan\nu7,paid\n")
    status, foretold = command(house, "--dry-run")
    assert status == 0
    assert foretold["tables"][0] == {
        "table": "users", "version": 1, "files_before": 2, "files_after": 1, "vacuumed": 0,
    }  # fmt: skip
    assert house.stores.tables.version("users") == 1
    assert command(house, "--retain", "1h") == (
        0,
        {
            "tables": [{**foretold["tables"][0], "version": 2}, foretold["tables"][1]],
            "dead_devices": 0,
            "events": 0,
            "waits": 0,
            "snapshots": 0,
            "imports": 0,
        },
    )
    assert tidy_tables(house.stores, UpkeepInput()).tables[0].files_before == 1
    for wrong in ("soon", "5m"):
        status, failure = command(house, "--retain", wrong)
        assert (status, failure["errors"][0]["code"]) == (2, "wrong-duration")


@pytest.mark.whole_server
async def test_the_schedule(house: House) -> None:
    """`--every` makes a schedule that starts the workflow, changes the one that is there, and `never` removes it."""
    house.load("users", "user_id,plan\nu7,paid\n")
    assert await asyncio.to_thread(command, house, "--every", "1d") == (
        0,
        {"schedule": "upkeep", "every": "1d", "retain": "7d", "done": "created"},
    )
    assert (await asyncio.to_thread(command, house, "--every", "12h", "--retain", "2d"))[1]["done"] == "changed"
    async with house.serving((JOURNEYS_QUEUE,)) as client:
        handle = client.get_schedule_handle("upkeep")
        description = await handle.describe()
        assert description.schedule.policy.overlap == ScheduleOverlapPolicy.SKIP
        assert description.schedule.spec.intervals[0].every == timedelta(hours=12)
        await handle.trigger()
        report = UpkeepReport.model_validate(await _result_of_scheduled(client))
        assert report.tables[0].files_after == 1
    assert (await asyncio.to_thread(command, house, "--every", "never"))[1] == {
        "schedule": "upkeep", "every": None, "retain": None, "done": "removed",
    }  # fmt: skip
    with pytest.raises(RPCError, match="not found"):
        await handle.describe()
    assert (await asyncio.to_thread(command, house, "--every", "never"))[1]["done"] == "absent"


async def _result_of_scheduled(client: Client) -> Any:
    """Wait for the run that the schedule started."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        handle = client.get_schedule_handle("upkeep")
        actions = (await handle.describe()).info.recent_actions
        if actions:
            run = client.get_workflow_handle(actions[0].action.workflow_id)  # type: ignore[attr-defined]
            result = await run.result()
            assert (await run.describe()).status == WorkflowExecutionStatus.COMPLETED
            return result
    raise AssertionError("the schedule started nothing")
