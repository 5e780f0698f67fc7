"""A person's data can be found everywhere, given out, and erased, and the numbers stay as they are."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr
from temporalio.client import Client

from activities.erasure import ErasureReport, erase_user, find_user
from activities.life import stats_of
from activities.push.claims import dead_addresses
from activities.records.admissions import Arrival
from activities.records.database import METADATA
from activities.records.personal import DELETED, EMPTIED, RENAMED, owned_tables
from activities.records.reports import explain, list_pushes
from activities.records.rows import passages, refusals
from activities.tables.imports import import_table
from activities.tables.schema import Kind
from tests.commands import Commands
from tests.house import House, open_house
from workflows.contracts import USERS_QUEUE, Audience, UserJourneyInput, user_workflow_id
from workflows.errors import RefusedError

USER, OTHER = "annabelle@example.org", "bartholomew@example.org"
DEVICE = "iphone-of-annabelle"
TOKEN = "address-of-annabelle"  # noqa: S105
NAME = "Annabelle-Constance"
TRACES = (USER, DEVICE, TOKEN, NAME)

DOCUMENTS = """\
journey: greet
entries:
  start: {kind: audience-entry, audience: {file: list.csv, column: who}, next: promo}
elements:
  promo: {kind: push, message: {title: "Hello {{ user.first_name }}", body: there}, next: done}
  done: {kind: exit}
---
journey: wait
entries:
  start: {kind: audience-entry, audience: {everyone: true}, next: promo}
elements:
  promo: {kind: push, message: {title: "Hello {{ user.first_name }}", body: there}, next: done}
  done: {kind: exit}
"""

KEPT = {
    "sent_to",
    *("journey", "version", "entry", "element", "step", "branch", "outcome", "reason", "exit", "provider"),
    *("at", "as_of", "entered_at", "begun_at", "closed_at", "since", "tables", "started", "attempts", "capped_by"),
    *("goal", "opened", "epoch", "due_at", "signalled", "place", "to_version", "from_version", "from_element"),
    *("to_element", "entered_version", "enters_at", "sent_at", "digest", "deadline", "open"),
}
"""Columns of rows of persons that say nothing of the person: which box, when, how it ended, from which tables."""


@pytest.fixture
def filled(house: House, tmp_path: Path) -> House:
    """The house with two users more, one of whom has traces everywhere."""
    house.load("users", f"user_id,first_name,plan,age\n{USER},{NAME},paid,30\n{OTHER},Bart,paid,40\n")
    house.load("devices", f"device_id,user_id,platform,token,opt_in\n{DEVICE},{USER},ios,{TOKEN},true\n")
    house.load("devices", f"device_id,user_id,platform,token,opt_in\ndb,{OTHER},ios,tb,true\n")
    bought = [f"e-{user},{user},purchase,2026-01-01\nx,{user}\n" for user in (USER, OTHER)]  # and a cut row each
    house.load("events", "event_id,user_id,event,at\n" + "".join(bought))
    (tmp_path / "list.csv").write_text(f"who\n{USER}\n{OTHER}\n")
    house.save(DOCUMENTS, folder=tmp_path)
    claim = {"device_id": DEVICE, "provider": "fcm", "token": TOKEN, "since": "2026", "detail": f"gone: {TOKEN}"}
    house.stores.ledger.database.write_now(lambda connection: connection.execute(dead_addresses.insert(), [claim]))
    return house


async def running(house: House, journey: str) -> None:
    """Have a journey run, as far as the ledger knows."""
    found = house.stores.catalogue.find("journey", journey)
    await house.stores.ledger.open_journey(journey, 1, found.digest, "l", found.saved_at)


async def greeted(house: House, client: Client) -> Any:
    """Run the journey `greet` to its end."""
    return await house.engine.result(await house.engine.start("greet", client=client), client=client)


async def erase(house: House, client: Client | None, *, vacuum: bool = False) -> ErasureReport:
    return await erase_user(house.stores, client, USER, house.settings.rejects, vacuum=vacuum)


def ledger_text(house: House) -> str:
    """All rows of the ledger's file, as text."""
    url = house.stores.ledger.database.url.removeprefix("sqlite:///")
    connection = sqlite3.connect(url)
    text = "\n".join(connection.iterdump())
    connection.close()
    return text


def test_each_column_of_the_ledger_is_covered() -> None:
    """Each column of a table that holds rows of persons is known to be renamed, emptied, deleted, or to say nothing."""
    owned = dict(owned_tables())
    assert {"passages", "steps", "refusals", "pushes", "dead_addresses", "pseudonyms"} <= {one.name for one in owned}
    unknown = [
        f"{table.name}.{column.name}"
        for table in owned
        if table not in DELETED
        for column in table.c
        if column.name not in RENAMED | EMPTIED | KEPT
    ]
    assert unknown == []
    telling = [
        f"{table.name}.{column.name}"
        for table in METADATA.sorted_tables
        if table not in owned
        for column in table.c
        if column.name in (RENAMED | EMPTIED) - {"enrolment", "title"}
    ]
    assert telling == []


async def test_everything_is_found(filled: House) -> None:
    """An export holds the user's rows of each table and of the ledger, audiences, rejects, runs, and no one else's."""
    async with filled.serving() as client:
        await greeted(filled, client)
        found = await find_user(filled.stores, client, USER, filled.settings.rejects)
    assert found.counts == {
        **{"table users": 1, "table devices": 1, "table events": 1, "table members": 1},
        **{"ledger passages": 1, "ledger steps": 1, "ledger pushes": 1, "ledger dead_addresses": 1},
        **{"snapshots": 1, "rejects": 1, "runs": 1},
    }
    assert found.tables["users"][0] == {"user_id": USER, "first_name": NAME, "plan": "paid", "age": 30}
    (run,) = found.runs or []
    assert (run.workflow_id, run.status) == (user_workflow_id("greet", USER), "completed")
    assert OTHER not in found.model_dump_json()


async def test_nothing_is_left_and_the_numbers_stay(filled: House) -> None:
    """After an erasure no place holds a trace, others' data is whole, and the numbers are what they were."""
    async with filled.serving() as client:
        await greeted(filled, client)
        before = stats_of(filled.stores, "greet")
        others = await find_user(filled.stores, client, OTHER, filled.settings.rejects)
        report = await erase(filled, client)
        assert report.erased["runs"] == 1
        assert await find_user(filled.stores, client, OTHER, filled.settings.rejects) == others
        assert (await find_user(filled.stores, client, USER, filled.settings.rejects)).counts == {}
        with pytest.raises(RefusedError, match="nothing is kept"):
            await erase(filled, client)
    after = stats_of(filled.stores, "greet")
    assert after.model_copy(update={"as_of": before.as_of}) == before
    assert all(trace not in ledger_text(filled) for trace in TRACES)
    assert OTHER in ledger_text(filled)
    database = filled.stores.ledger.database
    (unnamed,) = [push for push in list_pushes(database, journey="greet").pushes if push.user_id != OTHER]
    assert (unnamed.user_id[:7], unnamed.title, unnamed.body) == ("erased-", "", "")
    assert explain(database, "greet", unnamed.user_id).runs[0].exit == "done"
    assert explain(database, "greet", USER).runs == []


async def test_vacuum_removes_the_last_byte(filled: House) -> None:
    """With --vacuum no file of the home holds a trace any more: tables of any version, their log, the ledger's file."""
    async with filled.serving() as client:
        await greeted(filled, client)

        def traces() -> set[str]:
            found = set()
            home = filled.settings.home
            for path in (path for path in home.rglob("*") if path.is_file() and path.parent != home / "."):
                text = path.read_bytes()
                if path.suffix == ".parquet":
                    text += pl.read_parquet(path).write_ndjson().encode()
                if any(trace.encode() in text for trace in TRACES):
                    found.add(path.relative_to(home).parts[0])
            return found - {path.name for path in home.glob("*.csv")}  # what was imported is the person's own

        await erase(filled, client)
        assert traces() >= {"tables"}
        report = await erase(filled, client, vacuum=True)
        assert report.vacuumed
        assert traces() == set()
    tables = filled.stores.tables
    assert tables.row_count("users") == 7
    assert tables.row_count("devices") == 6
    filled.load("users", "user_id,first_name\nu1,Anne\n")
    assert tables.collect(tables.scan("users").filter(user_id="u1")).item(0, "first_name") == "Anne"


async def test_open_runs_end_and_nobody_is_started_in_their_place(filled: House) -> None:
    """A user who is inside is taken out, with that reason; an audience still being admitted lets nobody in instead."""
    filled.hold_pushes(OTHER)
    client = await filled.client()
    stores = filled.stores
    await running(filled, "wait")
    async with filled.serving((USERS_QUEUE,)):
        for user in (USER, OTHER):
            await filled.start_user(client, "wait", user)
        while stores.ledger.inside("wait") < 2:  # each waits for a worker of the pushes
            await asyncio.sleep(0.05)
    audience = Audience(enrolment="wait-2", users=3, as_of=datetime.now(UTC), tables={})
    await stores.ledger.open_enrolment("wait-2", "wait", 1, "start", audience)
    stores.snapshots.mkdir(exist_ok=True)
    pl.DataFrame({"user_id": [USER, OTHER, "u1"]}).write_parquet(stores.snapshots / "wait-2.parquet")
    report = await erase(filled, client)
    assert (report.erased["runs"], report.erased["snapshots"]) == (1, 1)
    stats = stats_of(stores, "wait")
    assert (stats.inside, stats.exited, stats.refused) == (1, {"erased": 1}, {"erased": 1})
    assert stats.elements["promo"].left == {"erased": 1}
    page = pl.read_parquet(stores.snapshots / "wait-2.parquet").get_column("user_id").to_list()
    assert (page[0][:7], page[1:]) == ("erased-", [OTHER, "u1"])
    arrival = Arrival("wait-2", "wait", 1, "start", "after_exit", datetime.now(UTC))
    admissions = await stores.ledger.admit(arrival, page)
    assert [one.refused for one in admissions] == ["erased", "already-inside", ""]


async def test_a_page_admitted_again_finds_the_erased(filled: House) -> None:
    """A page that a dead worker admitted, and that is admitted again after an erasure, admits nobody twice."""
    ledger = filled.stores.ledger
    await running(filled, "wait")
    audience = Audience(enrolment="e", users=2, as_of=datetime.now(UTC), tables={})
    await ledger.open_enrolment("e", "wait", 1, "start", audience)
    filled.stores.snapshots.mkdir(exist_ok=True)
    path = filled.stores.snapshots / "e.parquet"
    pl.DataFrame({"user_id": [USER, OTHER]}).write_parquet(path)
    arrival = Arrival("e", "wait", 1, "start", "after_exit", datetime.now(UTC))
    await ledger.admit(arrival, [USER, OTHER])
    await erase(filled, None)
    again = await ledger.admit(arrival, pl.read_parquet(path).get_column("user_id").to_list())
    assert [(one.known, one.refused) for one in again] == [(True, ""), (True, "")]
    assert again[0].left is not None
    assert again[0].left.reason == "erased"
    assert ledger.enrolled("e") == (2, 0)


async def test_refusals_and_keyed_passages_are_covered(filled: House) -> None:
    """Refusals and keys of a user are made nobody's, and stay apart from each other."""
    ledger, now = filled.stores.ledger, datetime.now(UTC)
    await running(filled, "wait")
    for key in ("order-1", "order-2", ""):
        arrival = Arrival("e", "wait", 1, "start", "never", now, key)
        await ledger.admit(arrival, [USER])
        await ledger.admit(Arrival("f", "wait", 1, "start", "never", now, key), [USER])
    await erase(filled, None)
    assert all(text not in ledger_text(filled) for text in (*TRACES, "order-1", "order-2"))
    counted = ledger.database.read(
        lambda c: [len({row.key for row in c.execute(t.select()).all()}) for t in (passages, refusals)]
    )
    assert counted == [3, 3]
    assert stats_of(filled.stores, "wait").exited == {"erased": 3}


async def test_runs_of_any_client_are_found(filled: House) -> None:
    """A run that the ledger never heard of, and a keyed one, are found by their workflow ids and deleted."""
    client = await filled.client()
    for workflow_id in (user_workflow_id("wait", USER), user_workflow_id("wait", USER, "k")):
        await client.start_workflow(
            "UserJourney", UserJourneyInput(journey="wait", user_id=USER), id=workflow_id, task_queue="nobody"
        )
    stranger = await client.start_workflow(
        "UserJourney",
        UserJourneyInput(journey="wait", user_id=f"{USER}x"),
        id=user_workflow_id("wait", f"{USER}x"),
        task_queue="nobody",
    )
    while (await client.count_workflows("")).count < 3:
        await asyncio.sleep(0.05)
    assert (await erase(filled, client)).erased["runs"] == 2
    assert (await stranger.describe()).status is not None


async def test_runs_under_a_pseudonym_are_found(filled: House) -> None:
    """Where ids are hidden, runs are found by the pseudonym, and by the plain id from before; what leads back goes."""
    with open_house(filled.settings.home, filled.address, filled.namespace, id_key=SecretStr("k" * 16)) as hidden:
        ids, client = hidden.stores.ids, await hidden.client()
        for workflow_id in (user_workflow_id("wait", USER), ids.workflow_id("wait", USER)):
            await client.start_workflow(
                "UserJourney", UserJourneyInput(journey="wait", user_id=USER), id=workflow_id, task_queue="nobody"
            )
        hidden.stores.ledger.database.write_now(lambda connection: ids.remember(connection, [USER]))
        while (await client.count_workflows("")).count < 2:
            await asyncio.sleep(0.05)
        found = await find_user(hidden.stores, client, USER, hidden.settings.rejects)
        assert found.pseudonym == ids.name(USER)
        report = await erase(hidden, client)
        assert (report.erased["runs"], report.erased["ledger pseudonyms"]) == (2, 1)
        assert ids.users([ids.name(USER)]) == {ids.name(USER): ids.name(USER)}


def test_the_commands(tmp_path: Path) -> None:
    """`user export` prints all as one object, `user erase` erases and reports; without --yes JSON changes nothing."""
    here = Commands(tmp_path)
    here.write("users.csv", f"user_id,first_name\n{USER},{NAME}\n")
    here.write("devices.csv", f"device_id,user_id,platform,token\n{DEVICE},{USER},ios,{TOKEN}\n")
    assert here("import", "users", "users.csv").status == 0
    assert here("import", "devices", "devices.csv").status == 0
    assert here("user", "export", USER, "--json").codes == ["no-server"]
    found = here("user", "export", USER, "--without-runs", "--json").json
    assert (found["user_id"], found["pseudonym"], found["runs"]) == (USER, None, None)
    assert found["tables"]["devices"][0]["token"] == TOKEN
    assert "table users 1" in " ".join(here("user", "export", USER, "--without-runs").out.split())
    assert here("user", "export", "nobody", "--without-runs", "--json").codes == ["not-found"]
    kept = here.kept()
    assert here("user", "erase", USER, "--without-runs", "--json").codes == ["usage"]
    assert here("user", "erase", USER, "--without-runs", stdin="n\n").status == 130
    assert here.kept() == kept
    report = here("user", "erase", USER, "--without-runs", "--vacuum", "--yes", "--json").json
    assert report == {
        "user_id": USER,
        "erased": {"table users": 1, "table devices": 1},
        "runs": False,
        "vacuumed": True,
    }
    assert here("user", "erase", USER, "--without-runs", "--yes", "--json").codes == ["unknown-user"]
    assert json.loads(here("tables", "--json").out)["tables"][0]["rows"] == 0


GOOD = [f"g{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "bad.ndjson",
            [
                *(f'{{"user_id": "{user}", "n": 1}}' for user in GOOD),
                '{"user_id":1234567,"n":"bad"}',
                '{"n":"bad","user_id": 7654321}',
                r'{"n":"bad","user_id":"u\u00e9"}',
            ],
        ),
        ("bad.csv", ["user_id,n", *(f"{user},1" for user in GOOD), "1234567,bad", " 7654321 ,bad", "ué,bad"]),
        ("semicolons.csv", ["user_id;n", *(f"{user};1" for user in GOOD), "1234567;bad", "7654321;bad", "ué;bad"]),
        ("quoted.csv", ["user_id,n", *(f"{user},1" for user in GOOD), '"1234567",bad', '"7654321",bad', '"ué",bad']),
    ],
)
async def test_rejected_rows_name_users_as_they_stand(house: House, name: str, lines: list[str]) -> None:
    """However a rejected row is written, it is found by its user's id, and by no part of it, nor by its line."""
    path, aside = house.settings.home / name, house.settings.rejects
    path.write_text("\n".join(lines), encoding="utf-8")
    kinds: dict[str, Kind] = {"n": "integer"}
    now = datetime.now(UTC)
    import_table(house.stores.tables, "users", path, now=now, schema_overrides=kinds, rejects_dir=aside)
    for user_id, rows in (("1234567", 1), ("7654321", 1), ("ué", 1), ("123456", 0), ("8", 0)):
        found = await find_user(house.stores, None, user_id, aside)
        assert sum(found.rejects.values()) == rows, user_id
