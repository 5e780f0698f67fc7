"""A table for the database's own laws, which knows nothing of journeys, and a writer that waits until it is let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select

from activities.records.database import Database

notes = Table(
    "notes",
    MetaData(),
    Column("note", Integer, primary_key=True, autoincrement=False),
    Column("by", String(20), nullable=False),
)
"""A table for the database's own laws: it knows nothing of journeys."""


def open_database(url: str) -> Database:
    found = Database(url)
    found.create()
    found.write_now(notes.metadata.create_all)
    return found


def write_note(number: int, by: str = "") -> Any:
    return lambda connection: connection.execute(insert(notes).values(note=number, by=by)).rowcount


def noted(database: Database) -> set[int]:
    return {row.note for row in database.read(lambda connection: connection.execute(select(notes.c.note)).all())}


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
