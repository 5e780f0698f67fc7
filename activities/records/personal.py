"""What the ledger holds of one person: listed for the person, or made nobody's, so that all numbers stay as they are.

Every table of the ledger is covered by the names of its columns: a row is a person's when its `user_id`, its `passage`
or its `device_id` is. A test refuses a column that is in none of the sets below.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, Table, delete, select, update

from activities.push.claims import dead_addresses
from activities.records.admissions import passage_id
from activities.records.database import METADATA
from activities.records.ledger import Ledger
from activities.records.outcomes import abandon
from activities.records.pseudonyms import pseudonyms
from activities.records.rows import enrolments, instant, passages, pushes, refusals, taken, waits

OWNERS = ("user_id", "passage", "device_id")
"""Columns that say whose a row is, the first that a table has."""
RENAMED = {"user_id", "passage", "device_id", "key", "enrolment", "event_id"}
"""Columns whose values become random ones, alike in all rows."""
EMPTIED = {"title", "message", "token", "push_id", "detail", "because", "properties"}
"""Columns whose values are dropped: they quote the person's values, or lead to the person's devices."""
DELETED = (dead_addresses, pseudonyms, taken)
"""Tables whose rows no number counts: they go as a whole."""
EMPTY = {"message": '{"title": "", "body": ""}', "properties": "{}"}
"""What stands in a column that is read as JSON and cannot be null."""
ERASED = "erased"
"""Why a passage was closed, or an admission refused, when its user was erased."""


@dataclass
class _Names:
    """Gives each value a random one in its place, always the same; no value leads back, since none is derived."""

    user: str
    alias: str
    passages: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def of(self, column: str, value: Any) -> Any:
        match column:
            case "user_id":
                return self.alias
            case "passage":
                return self.passages.setdefault(value, uuid4().hex)
            case "enrolment":  # of a run that a client started, it is its passage
                return self.passages.get(value, value)
            case "key" if not value:
                return value
        return self.others.setdefault(f"{column}\n{value}", f"{ERASED}-{uuid4().hex}")


def owned_tables() -> Iterator[tuple[Table, str]]:
    """Give each table that holds rows of persons, with the column that says whose they are."""
    for table in METADATA.sorted_tables:
        owner = next((column for column in OWNERS if column in table.c), None)
        if owner is not None:
            yield table, owner


def devices_in_ledger(ledger: Ledger, user_id: str) -> set[str]:
    """Give the devices of a user that pushes went to. Blocking."""
    query = select(pushes.c.device_id).where(pushes.c.user_id == user_id).distinct()
    return {row.device_id for row in ledger.database.read(lambda connection: connection.execute(query).all())}


def rows_of(ledger: Ledger, user_id: str, devices: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Give all that the ledger holds of a user. Blocking.

    Args:
        ledger: The ledger.
        user_id: The user.
        devices: The user's devices.

    Returns:
        Table to rows; tables without any are left out.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """

    def work(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        found = {
            table.name: [dict(row._mapping) for row in _rows(connection, table, owner, user_id, devices)]
            for table, owner in owned_tables()
        }
        return {name: rows for name, rows in found.items() if rows}

    return ledger.database.read(work)


def journeys_of(ledger: Ledger, user_id: str) -> set[str]:
    """Give the journeys that a user entered or was refused by. Blocking."""

    def work(connection: Connection) -> set[str]:
        return {
            row.journey
            for table in (passages, refusals)
            for row in connection.execute(select(table.c.journey).where(table.c.user_id == user_id).distinct())
        }

    return ledger.database.read(work)


def make_nobodys(
    ledger: Ledger, user_id: str, devices: Collection[str], alias: str, snapshots: Collection[str], at: datetime
) -> dict[str, int]:
    """Put random names in the place of a user in all rows, drop what the rows say of the person, and close passages.

    Args:
        ledger: The ledger.
        user_id: The user.
        devices: The user's devices.
        alias: What stands for the user from now on; random.
        snapshots: Enrolments in whose audience the alias stands by now.
        at: The instant, UTC.

    Returns:
        Table to the number of rows that were changed or deleted.

    Raises:
        StoreUnavailable: The ledger cannot be written. Nothing was changed.
    """

    def work(connection: Connection) -> dict[str, int]:
        names, changed = _Names(user_id, alias), {}
        for table in DELETED:
            owner = next(column for column in OWNERS if column in table.c)
            values = [user_id] if owner == "user_id" else list(devices)
            changed[table.name] = connection.execute(delete(table).where(table.c[owner].in_(values))).rowcount
        owned = [(table, owner) for table, owner in owned_tables() if table not in DELETED]
        found = {table: _rows(connection, table, owner, user_id, devices) for table, owner in owned}
        for row in found.get(passages, []):
            # The page of an audience that is admitted again must find the passage by its new name.
            derived = row.passage == passage_id(row.enrolment, user_id, row.key)
            again = passage_id(row.enrolment, alias, names.of("key", row.key))
            names.passages[row.passage] = again if derived else uuid4().hex
        for table, rows in found.items():
            for row in rows:
                _rename(connection, table, row, names)
            changed[table.name] = len(rows)
        connection.execute(
            update(passages)
            .where(passages.c.user_id == alias, passages.c.closed_at.is_(None))
            .values(closed_at=instant(at), reason=ERASED)
        )
        connection.execute(update(waits).where(waits.c.user_id == alias).values(open=0))
        abandon(connection, pushes.c.user_id == alias)
        _keep_out(connection, alias, snapshots, at)
        return {name: number for name, number in changed.items() if number}

    return ledger.database.write_now(work)


def _rows(connection: Connection, table: Table, owner: str, user_id: str, devices: Collection[str]) -> list[Row[Any]]:
    """Give a table's rows of one user."""
    mine: Any = table.c[owner] == user_id
    if owner == "passage":
        mine = table.c.passage.in_(select(passages.c.passage).where(passages.c.user_id == user_id))
    elif owner == "device_id":
        mine = table.c.device_id.in_(list(devices))
    return list(connection.execute(select(table).where(mine)))


def _rename(connection: Connection, table: Table, row: Row[Any], names: _Names) -> None:
    """Change one row, found by its own key."""
    values: dict[str, Any] = {}
    for column in table.c:
        value = row._mapping[column.name]
        if value is None:
            continue
        if column.name in RENAMED:
            values[column.name] = names.of(column.name, value)
        elif column.name in EMPTIED:
            values[column.name] = None if column.nullable else EMPTY.get(column.name, "")
    found = [column == row._mapping[column.name] for column in table.primary_key.columns]
    connection.execute(update(table).where(*found).values(values))


def _keep_out(connection: Connection, alias: str, snapshots: Collection[str], at: datetime) -> None:
    """Refuse the alias where an audience that holds it is still being admitted, so that nobody's run is started."""
    for enrolment in snapshots:
        row = connection.execute(select(enrolments).where(enrolments.c.enrolment == enrolment)).first()
        if row is None or row.cursor >= row.audience:
            continue
        known = [
            connection.execute(select(table.c.user_id).where(table.c.enrolment == enrolment, table.c.user_id == alias))
            for table in (passages, refusals)
        ]
        if any(found.first() is not None for found in known):
            continue
        refused = {"journey": row.journey, "version": row.version, "at": instant(at), "reason": ERASED}
        connection.execute(refusals.insert().values(enrolment=enrolment, user_id=alias, key="", **refused))
