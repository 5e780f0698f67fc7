"""`journeys doctor`: each dependency is asked, what is wrong is told with how to mend it, and nothing is changed."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from activities.records import migrations
from activities.records.database import Database
from tests.commands import Commands
from tests.house import House
from tests.postgres import PostgresServer
from tests.test_connecting import configure
from tests.test_worker_process import worker
from workers.connecting import create_search_attributes
from workers.diagnosis import Check, clock, disk, examine, ledger, payload_keys, program, providers, tables
from workers.settings import Settings

MARKER = "zugzwang"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL = [
    "home",
    "settings-file",
    "disk",
    "temporal-program",
    "ledger",
    "tables",
    "temporal",
    "namespace",
    "search-attributes",
    "runs",
    "worker-journeys",
    "worker-users",
    "worker-push",
    "clock",
]


def wrong(checks: list[Check]) -> dict[str, Check]:
    """The checks that found something wrong."""
    return {check.check: check for check in checks if not check.ok}


async def settled(here: House, wanted: list[str]) -> dict[str, Check]:
    """Ask until the server knows of the polls of a worker that just began: what is wrong then is as wanted, or told."""
    for _ in range(50):
        found = wrong(await examine(here.settings))
        if list(found) == wanted:
            break
        await asyncio.sleep(0.2)
    assert list(found) == wanted, found
    return found


@pytest.fixture
def here(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house whose server the environment names."""
    configure(monkeypatch, TEMPORAL_ADDRESS=house.address, TEMPORAL_NAMESPACE=house.namespace)
    return house


async def test_all_is_well_while_a_worker_serves(here: House) -> None:
    """Beside a worker that serves every check is good, and the command says so with 0 in one JSON object."""
    home = here.settings.home
    async with worker(here):
        await settled(here, [])
        found = await examine(here.settings)
        said = await asyncio.to_thread(Commands(home.parent).run, "doctor", "--json", JOURNEYS_HOME=str(home))
    assert wrong(found) == {}
    assert [check.check for check in found] == ALL
    assert said.status == 0, said
    assert set(said.json) == {"ok", "checks"}
    assert said.json["ok"] is True
    assert all(set(check) == {"check", "ok", "message", "hint"} for check in said.json["checks"])


async def test_what_a_worker_brings_is_missed(here: House) -> None:
    """Without any worker the search attributes and the polls are missed, each with what starts it."""
    found = wrong(await examine(here.settings))
    assert list(found) == ["search-attributes", "worker-journeys", "worker-users", "worker-push"]
    assert "JourneyId" in found["search-attributes"].message
    assert "python -m workers --role push" in (found["worker-push"].hint or "")
    await create_search_attributes(await here.client())
    async with worker(here, "--role", "users"):
        await settled(here, ["worker-journeys", "worker-push"])


@pytest.mark.whole_server
async def test_a_build_that_is_not_current_is_told(here: House) -> None:
    """Workers whose build nobody made current poll and get nothing: that is told."""
    async with worker(here, JOURNEYS_BUILD_ID="a"):
        for _ in range(100):  # until they poll, they are told as missing
            found = await settled(here, ["worker-journeys", "worker-users", "worker-push"])
            if all("none of them is current" in check.message for check in found.values()):
                return
            await asyncio.sleep(0.1)
    raise AssertionError(found)


async def test_an_unknown_namespace_is_told(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace that the server lacks is named with the command that makes it."""
    configure(monkeypatch, TEMPORAL_NAMESPACE="nowhere")
    found = wrong(await examine(here.settings))
    assert "temporal operator namespace create --namespace nowhere" in (found["namespace"].hint or "")
    assert found["worker-push"].hint == "mend the check namespace first"


def test_no_server_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    """Without a server the command ends with 1, tells people what to do, and makes no file."""
    here = Commands(tmp_path)
    said = here("doctor")
    assert said.status == 1
    assert "wrong temporal: no Temporal server is known" in said.out
    assert "start one with `journeys dev`" in said.out
    assert list(here.settings.home.iterdir()) == []


def test_wrong_settings_are_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be read is what is wrong, named by its variable."""
    configure(monkeypatch, JOURNEYS_POLLERS="many", JOURNEYS_TIMEZONE="Paris")
    said = Commands(tmp_path)("doctor", "--json")
    assert said.status == 1
    assert [check["check"] for check in said.json["checks"]] == ["settings", "settings"]
    assert "JOURNEYS_POLLERS" in said.json["checks"][1]["message"] + said.json["checks"][0]["message"]
    file = Commands(tmp_path).write(".journeys/settings.env", "\nJOURNEYS_POLERS=3\n")
    (unknown, *_) = Commands(tmp_path)("doctor", "--json").json["checks"]
    assert unknown["message"].startswith(f"{file}:2: ")
    assert unknown["hint"] == "did you mean 'JOURNEYS_POLLERS'?"


def test_a_home_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A home below a file is told, and so is what follows from it."""
    (tmp_path / "file").write_text("")
    found = wrong(asyncio.run(examine(Settings(home=tmp_path / "file/home"))))
    assert "is a file" in found["home"].message


def test_a_program_that_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `temporal` program that is not there is wrong where it is needed, and no matter where a server is named."""
    settings = Settings(home=tmp_path, server=tmp_path / "temporal")
    found = program(settings)
    assert not found.ok
    assert str(tmp_path / "temporal") in found.message
    configure(monkeypatch, TEMPORAL_ADDRESS="127.0.0.1:1")
    assert program(settings).ok


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A disk with less room than needed is told with what is left."""
    settings = Settings(home=tmp_path / "not/there/yet")
    assert disk(settings).ok
    found = disk(settings, least=1 << 60)
    assert not found.ok
    assert found.message.startswith("only ")
    assert "journeys upkeep" in (found.hint or "")


@pytest.fixture
def file(house: House) -> Iterator[sqlite3.Connection]:
    """The house's ledger, as another program opens it."""
    with closing(sqlite3.connect(house.settings.home / "ledger.db", isolation_level=None)) as found:
        yield found


def test_a_ledger_that_another_program_holds_is_told(house: House, file: sqlite3.Connection) -> None:
    """A ledger that can be read and not written is wrong."""
    file.execute("BEGIN IMMEDIATE")
    found = ledger(house.settings)
    assert not found.ok
    assert "database is locked" in found.message
    file.execute("ROLLBACK")
    assert ledger(house.settings).ok


def test_a_ledger_of_another_version_is_told(house: House, file: sqlite3.Connection) -> None:
    """A ledger that lacks a table or a column is told with its name."""
    file.execute("ALTER TABLE pushes RENAME COLUMN title TO headline")
    file.execute("DROP TABLE refusals")
    found = ledger(house.settings)
    assert not found.ok
    assert "pushes.title, refusals" in found.message


def test_a_ledger_of_a_later_version_is_told(house: House, file: sqlite3.Connection) -> None:
    """A ledger that a later program brought to its own revision is told with both revisions."""
    file.execute("UPDATE alembic_version SET version_num = '9999'")
    found = ledger(house.settings)
    assert not found.ok
    assert "revision 9999" in found.message


def test_a_ledger_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    """A PostgreSQL that is not there is wrong, and its password is not quoted."""
    settings = Settings(home=tmp_path, database=SecretStr(f"postgresql+psycopg://me:{MARKER}@127.0.0.1:1/x"))
    found = ledger(settings)
    assert not found.ok
    assert MARKER not in found.model_dump_json()


def test_a_ledger_on_postgresql_is_asked_with_its_clock(tmp_path: Path, postgres: PostgresServer) -> None:
    """PostgreSQL is found empty and then in order, is never brought up to date by asking, and its clock agrees."""
    settings = Settings(home=tmp_path / "home", database=SecretStr(postgres.create()))
    assert "it is empty" in ledger(settings).message
    with closing(Database(settings.database_url)) as database:
        assert database.read(migrations.revision) is None
        database.create()
    found = asyncio.run(examine(settings))
    assert {"ledger", "clock"} & set(wrong(found)) == set()
    assert next(check for check in found if check.check == "clock").message == "it agrees with the ledger's"
    assert not settings.home.exists()


def test_tables_that_cannot_be_read_are_told(house: House) -> None:
    """An audience table whose log is broken is wrong, and named."""
    log = sorted((house.settings.home / "tables/users/_delta_log").glob("*.json"))[-1]
    log.write_text("{")
    found = tables(house.settings)
    assert not found.ok
    assert "users" in found.message


def test_credentials_that_do_not_read_are_told_and_not_quoted(tmp_path: Path) -> None:
    """Each provider's credentials are parsed; one that does not read, or lacks a part, is told by its name."""
    key = tmp_path / "key"
    key.write_text(f'{{"private_key": "{MARKER}"}}')
    settings = Settings(
        home=tmp_path,
        fcm_credentials=key,
        apns_key=key,
        apns_key_id="K",
        apns_team_id="T",
        apns_topic="x",
        webpush_key=tmp_path / "missing",
        webpush_subject="mailto:me@example.org",
        webhook_url="https://example.org/push",
        pushwoosh_application="AAAAA-00000",
        pushwoosh_token=SecretStr(MARKER),
    )
    found = {check.check: check for check in providers(settings)}
    assert [name for name, check in found.items() if check.ok] == ["provider-pushwoosh"]
    assert set(found) == {f"provider-{name}" for name in ("fcm", "apns", "webpush", "webhook", "pushwoosh")}
    assert str(tmp_path / "missing") in found["provider-webpush"].message
    assert "JOURNEYS_WEBHOOK_SECRET is missing" in found["provider-webhook"].message
    assert MARKER not in "".join(check.model_dump_json() for check in found.values())


def test_payload_keys_that_do_not_read_are_told_and_not_quoted(tmp_path: Path) -> None:
    """A file of payload keys is read where it is set: a wrong line is told, and not what it holds."""
    file = tmp_path / "keys"
    assert list(payload_keys(Settings(home=tmp_path))) == []
    file.write_text(f"k1:{MARKER}\n")
    (found,) = payload_keys(Settings(home=tmp_path, payload_keys=file))
    assert not found.ok
    assert MARKER not in found.model_dump_json()
    file.write_text(f"k1:{base64.b64encode(bytes(32)).decode()}\n")
    (found,) = payload_keys(Settings(home=tmp_path, payload_keys=file))
    assert found.ok


@pytest.mark.parametrize(
    ("ledgers", "polled", "said"),
    [
        (None, None, None),
        (2, None, None),
        (-2, None, None),
        (60, None, "60 s behind the ledger's"),
        (-60, None, "60 s ahead of the ledger's"),
        (None, -60, None),
        (None, 60, "60 s behind a poll"),
        (0, 60, "60 s behind a poll"),
    ],
)
def test_clocks_are_compared(ledgers: int | None, polled: int | None, said: str | None) -> None:
    """Clocks may differ by seconds; a poll is in the past, so it only shows that this clock is late."""
    clocks = {} if ledgers is None else {"the ledger's": NOW + timedelta(seconds=ledgers)}
    polls = {} if polled is None else {"a poll": NOW + timedelta(seconds=polled)}
    found = clock(NOW, clocks, polls)
    assert found.ok is (said is None), found
    assert said is None or said in found.message
