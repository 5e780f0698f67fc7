"""The database: an answer comes after the commit, one request's failure is its own, and an outage is said."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, func, insert, select
from sqlalchemy.engine import make_url

from activities.records.database import Database
from tests.notes import Held, noted, notes, open_database, write_note
from workflows.errors import StoreUnavailable


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = open_database(database_url)
    yield found
    found.close()


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
