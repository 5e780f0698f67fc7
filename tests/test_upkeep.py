"""Upkeep of the audience tables: by hand, by a schedule, and never at the cost of what still needs a version."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from sqlalchemy import Connection, select
from temporalio.client import Client, ScheduleOverlapPolicy, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError

from activities.push.claims import dead_addresses
from activities.records.admissions import Arrival
from activities.records.ledger import Evidence
from activities.records.rows import held, hits, instant, taken, waits
from activities.tables.delta import Tables
from activities.tables.schema import TableName
from activities.tables.tidying import tidy
from activities.upkeep import needed_versions, tidy_tables
from scripts.cli import run
from tests.house import House
from workflows.contracts import JOURNEYS_QUEUE, Audience, Leave, Outcome, Visit
from workflows.errors import ImportRefused, NotFoundError, StoreUnavailable
from workflows.upkeep import TidiedTable, UpkeepInput, UpkeepReport

NONE = timedelta(0)
DAY = timedelta(days=1)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


def users(*ids: str, plan: str = "free") -> pl.DataFrame:
    return pl.DataFrame({"user_id": ids, "plan": [plan] * len(ids)}, schema={"user_id": pl.String, "plan": pl.String})


def tidied(
    tables: Tables, needed: tuple[int, ...] = (), retain: timedelta = NONE, *, dry_run: bool = False
) -> TidiedTable:
    found = tidy(tables, "users", retain=retain, needed=needed, now=datetime.now(UTC), dry_run=dry_run)
    assert found is not None
    return found


def rows(tables: Tables, version: int | None = None, name: TableName = "users") -> list[tuple[Any, ...]]:
    return sorted(tables.collect(tables.scan(name, version)).rows(), key=repr)


def test_compaction_changes_no_row_and_is_one_commit(tables: Tables) -> None:
    """Many small files become one in one commit, with the same rows; what was replaced stays for its time."""
    for number in range(6):
        tables.append("users", users(f"u{number}"))
    before = rows(tables)
    foretold = tidied(tables, retain=DAY, dry_run=True)
    assert (foretold.version, foretold.files_before, foretold.files_after, foretold.vacuumed) == (5, 6, 1, 0)
    done = tidied(tables, retain=DAY)
    assert done.model_dump() == {"table": "users", "version": 6, "files_before": 6, "files_after": 1, "vacuumed": 0}
    assert rows(tables) == before
    assert [len(rows(tables, version)) for version in range(7)] == [1, 2, 3, 4, 5, 6, 6]
    again = tidied(tables, retain=DAY)
    assert (again.version, again.files_before, again.files_after) == (6, 1, 1)


def test_vacuum_removes_what_nothing_needs_and_says_so(tables: Tables) -> None:
    """Replaced files go after their time; the newest version stays whole; an older one is refused as vacuumed."""
    for plan in ("free", "paid", "pro"):
        tables.upsert("users", users("a", "b", plan=plan), "user_id")
    scanned_before = tables.scan("users", 0)
    assert tidied(tables, dry_run=True).vacuumed == 2
    assert tidied(tables, retain=DAY).vacuumed == 0
    assert rows(tables, 0) == [("a", "free"), ("b", "free")]
    assert tidied(tables).vacuumed == 2
    assert rows(tables) == [("a", "pro"), ("b", "pro")]
    with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed") as refused:
        tables.collect(scanned_before)
    assert refused.value.code == "vacuumed"
    assert "newest version" in refused.value.hint
    with pytest.raises(NotFoundError, match="version 1 of the table users was vacuumed"):
        Tables(tables.root).row_count("users", 1)
    assert tidied(tables).version == tables.version("users"), "a vacuum that finds nothing commits nothing"


def test_a_version_whose_log_is_gone_was_vacuumed(tables: Tables) -> None:
    """A version that the log has forgotten is refused as vacuumed; one that never was, as unknown."""
    for number in range(4):
        tables.append("users", users(f"u{number}"))
    tables.handle("users", 3).create_checkpoint()
    for version in range(3):
        (Path(tables.place("users")) / "_delta_log" / f"{version:020}.json").unlink()
    fresh = Tables(tables.root)
    with pytest.raises(NotFoundError, match="version 1 of the table users was vacuumed"):
        fresh.scan("users", 1)
    with pytest.raises(NotFoundError, match="no version 9"):
        fresh.scan("users", 9)
    assert len(rows(fresh)) == 4


def test_a_file_that_the_newest_version_needs_is_no_vacuum(tables: Tables) -> None:
    """A damaged table is a store that cannot be used, which is retried, and never taken for a vacuumed version."""
    tables.append("users", users("a"))
    next(Path(tables.place("users")).glob("*.parquet")).unlink()
    with pytest.raises(StoreUnavailable, match="No such file"):
        tables.row_count("users")


def test_needed_versions_survive(tables: Tables) -> None:
    """A needed version, and all that are newer, stay readable whatever the retention; older ones go."""
    for plan in ("a", "b", "c", "d"):
        tables.upsert("users", users("u", plan=plan), "user_id")
        time.sleep(0.01)
    assert tidied(tables, needed=(1, 77)).vacuumed == 0
    assert [rows(tables, version) for version in (1, 2, 3)] == [[("u", "b")], [("u", "c")], [("u", "d")]]
    assert tidied(tables).vacuumed == 3


def test_a_killed_imports_leavings_go_after_a_day(tables: Tables) -> None:
    """A file that no commit names stays while it may belong to an import under way, and goes after a day."""
    tables.append("users", users("a"))
    stray = Path(tables.place("users")) / "part-00000-stray-c000.snappy.parquet"
    stray.write_bytes(b"half a file")
    assert tidied(tables).vacuumed == 0
    os.utime(stray, (time.time() - 2 * 86_400,) * 2)
    assert tidied(tables, retain=timedelta(hours=1)).vacuumed == 0
    assert tidied(tables, retain=DAY).vacuumed == 1
    assert not stray.exists()
    assert len(rows(tables)) == 1


def test_members_of_saved_versions_survive(house: House) -> None:
    """Compaction and vacuum leave each saved version of an imported segment whole."""
    for user in ("u1", "u2", "u3"):
        house.stores.tables.append("members", pl.DataFrame({"import_id": [user], "user_id": [user]}), once=user)
    now = datetime.now(UTC)
    done = tidy(house.stores.tables, "members", retain=NONE, needed=(), now=now, dry_run=False)
    assert done is not None
    assert (done.files_before, done.files_after, done.vacuumed) == (3, 1, 3)
    found = house.stores.tables.collect(house.stores.tables.scan("members").filter(import_id="u2"))
    assert found["user_id"].to_list() == ["u2"]


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


DEVICES = """\
device_id,user_id,platform,provider,token,last_seen,opt_in
p1,u1,ios,apns,aa,2026-03-01T10:00:00Z,true
p2,u2,ios,apns,bb,2026-03-01T10:00:00Z,true
p3,u3,ios,apns,cc,,true
p4,u4,android,,dd,,true
"""
"""Four devices more; the last one's provider is the default, the outbox."""


def call_dead(house: House, device: str, token: str, since: str, provider: str = "apns") -> None:
    """Write an address down as `settle` does when a provider calls it dead."""
    row = {"device_id": device, "provider": provider, "token": token, "since": since, "detail": "410 Unregistered"}
    house.stores.ledger.database.write_now(lambda connection: connection.execute(dead_addresses.insert(), row))


def reached(house: House) -> set[str]:
    """Give the reachable devices of ours, asked for a whole table and for single users, which must agree."""
    stores, users = house.stores, [f"u{number}" for number in range(1, 7)]
    whole = stores.tables.collect(stores.profiles.reachable(stores.tables.scan("devices")))["device_id"].to_list()
    profiles = stores.profiles.read(users, None, "UTC", datetime.now(UTC)).values()
    assert sorted(whole) == sorted(str(device["device_id"]) for profile in profiles for device in profile.devices)
    return {device for device in whole if device.startswith("p")}


def test_dead_addresses_move_into_the_table(house: House) -> None:
    """Dead in the ledger, then in the table, then in the table alone: the same devices are reachable all the time."""
    house.load("devices", DEVICES)
    assert reached(house) == {"p1", "p2", "p3", "p4"}
    call_dead(house, "p1", "aa", "2026-03-01T12:00:00.000000Z")
    call_dead(house, "p2", "bb", "2026-03-01T09:00:00.000000Z")  # seen since
    call_dead(house, "p3", "former", "2026-03-01T12:00:00.000000Z")  # another address by now
    call_dead(house, "p4", "dd", "2026-03-01T12:00:00.000000Z")  # at another provider
    call_dead(house, "p9", "xx", "2026-03-01T12:00:00.000000Z")  # nobody knows it
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput(dry_run=True)).dead_devices == 1
    assert "dead_since" not in house.stores.tables.schema("devices")
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    stored = house.stores.tables.collect(
        house.stores.tables.scan("devices").filter(pl.col("dead_address").is_not_null())
    )
    assert stored.select("device_id", "token", "dead_address", "dead_since").rows() == [
        ("p1", "aa", "apns:aa", datetime(2026, 3, 1, 12, tzinfo=UTC))
    ]
    assert [one[0] for one in house.stores.claims.all_dead()] == ["p1"], "who reads the version before finds it"
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 0
    assert house.stores.claims.all_dead() == []
    assert reached(house) == {"p2", "p3", "p4"}
    version = house.stores.tables.version("devices")
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 0
    assert house.stores.tables.version("devices") == version, "nothing to write, no commit"


def test_registering_again_revives_a_dead_device(house: House) -> None:
    """The same file again leaves it dead; seen after the provider's instant, or another address, revives it."""
    house.load("devices", DEVICES)
    for device, token in (("p1", "aa"), ("p2", "bb"), ("p3", "cc")):
        call_dead(house, device, token, "2026-03-01T12:00:00.000000Z")
    for _ in range(2):
        tidy_tables(house.stores, UpkeepInput())
    assert house.stores.claims.all_dead() == []
    house.load("devices", DEVICES)
    assert reached(house) == {"p4"}
    house.load("devices", "device_id,user_id,platform,last_seen\np1,u1,ios,2026-03-01T11:59:59Z\n")
    assert reached(house) == {"p4"}
    house.load("devices", "device_id,user_id,platform,last_seen\np1,u1,ios,2026-03-01T12:00:01Z\n")
    assert reached(house) == {"p1", "p4"}
    house.load("devices", "device_id,user_id,platform,token\np2,u2,ios,new\n")
    assert reached(house) == {"p1", "p2", "p4"}
    house.load("devices", "device_id,user_id,platform,provider\np3,u3,ios,fcm\n")
    assert reached(house) == {"p1", "p2", "p3", "p4"}, "what one provider refuses says nothing of another"
    call_dead(house, "p1", "aa", "2026-03-02T12:00:00.000000Z")
    assert reached(house) == {"p2", "p3", "p4"}
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    tidy_tables(house.stores, UpkeepInput())
    assert reached(house) == {"p2", "p3", "p4"}, "dead again, later"
    with pytest.raises(ImportRefused, match="'dead_since' is kept by the engine"):
        house.load("devices", "device_id,user_id,platform,dead_since\np1,u1,ios,\n")


def test_an_import_in_between_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marking starts again when an import commits first: the revived device stays alive, and no import is undone."""
    house.load("devices", DEVICES)
    call_dead(house, "p1", "aa", "2026-03-01T12:00:00.000000Z")
    call_dead(house, "p3", "cc", "2026-03-01T12:00:00.000000Z")
    tables, merge = house.stores.tables, Tables._merge

    def late(self: Tables, *args: Any, **kwargs: Any) -> None:
        if self is tables:
            monkeypatch.setattr(Tables, "_merge", merge)
            other = Tables(tables.root)
            row = {"device_id": "p1", "last_seen": datetime(2026, 3, 1, 13, tzinfo=UTC)}
            schema = {"device_id": pl.String, "last_seen": pl.Datetime("us", "UTC")}
            other.upsert("devices", pl.DataFrame([row], schema=schema), "device_id")
        merge(self, *args, **kwargs)

    monkeypatch.setattr(Tables, "_merge", late)
    assert tidy_tables(house.stores, UpkeepInput()).dead_devices == 1
    assert reached(house) == {"p1", "p2", "p4"}
    tidy_tables(house.stores, UpkeepInput())
    assert (reached(house), house.stores.claims.all_dead()) == ({"p1", "p2", "p4"}, [])


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
