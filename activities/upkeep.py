"""Upkeep of the audience tables: what the ledger still needs is found, and everything else may be tidied away.

What providers said of addresses moves from the ledger into the table of devices meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import unquote

import polars as pl
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select
from temporalio import activity

from activities.faults import as_failures
from activities.heartbeats import beating
from activities.push.devices import MARKED, SINCE, mark_dead
from activities.records.database import Database
from activities.records.rows import enrolments, held, hits, instant, journeys, passages, steps, taken, waits
from activities.stores import Stores
from activities.tables.delta import TABLES
from activities.tables.rejects import remove_unfinished
from activities.tables.stored import DEAD_ADDRESS, DEAD_SINCE
from activities.tables.temporary import remove_left_folders
from activities.tables.tidying import STRAY_HOURS, tidy
from workflows.conditions import duration
from workflows.errors import RefusedError, StoreUnavailable
from workflows.upkeep import UpkeepInput, UpkeepReport

REMEMBERED = timedelta(days=100)
"""How long the ledger remembers events: longer than the longest wait, which looks back to its beginning. An event given
again by the same id after that is a new one."""
FORGOTTEN_AT_ONCE = 10_000
"""Events deleted in one transaction, so that others come in between."""
STAYS_AT_ONCE = 2_000
"""Passages whose waits are looked at, and deleted, at once."""
LEAST = timedelta(hours=1)
"""Shortest time that replaced files stay: an evaluation that began before may read them for as long."""


class UpkeepActivities:
    """Tidies the audience tables.

    Args:
        stores: Tables and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="upkeep")
    @as_failures
    @beating
    async def upkeep(self, given: UpkeepInput) -> UpkeepReport:
        """Compact and vacuum the audience tables.

        Args:
            given: How long to retain what was replaced.

        Returns:
            What was done to each table.

        Raises:
            ApplicationError: A store cannot be reached, which Temporal retries; or the duration is wrong, which it
                does not.
        """
        return await asyncio.to_thread(tidy_tables, self._stores, given)


def retention(text: str) -> timedelta:
    """Read how long replaced files stay.

    Raises:
        RefusedError: The text is no duration, or is shorter than an evaluation may take.
    """
    try:
        retain = duration(text)
    except ValueError as error:
        raise RefusedError(str(error), code="wrong-duration") from None
    if retain < LEAST:
        raise RefusedError(
            f"{text!r} is too short: an evaluation that began before may read a replaced file for an hour",
            code="wrong-duration",
            hint="retain 1h at least",
        )
    return retain


def tidy_tables(stores: Stores, given: UpkeepInput) -> UpkeepReport:
    """Compact and vacuum the audience tables. Blocking.

    Args:
        stores: Tables and ledger.
        given: How long to retain what was replaced.

    Returns:
        What was done to each table that exists.

    Raises:
        RefusedError: The duration is wrong.
        StoreUnavailable: A store cannot be reached. Asking again does what is missing.
    """
    retain = retention(given.retain)
    now = datetime.now(UTC)
    buried = bury_dead_addresses(stores, dry_run=given.dry_run)
    needed = needed_versions(stores.ledger.database)
    strays = now - timedelta(hours=STRAY_HOURS)
    tidied = [
        tidy(stores.tables, name, retain=retain, needed=needed.get(name, set()), now=now, dry_run=given.dry_run)
        for name in TABLES
    ]
    return UpkeepReport(
        tables=[one for one in tidied if one is not None],
        dead_devices=buried,
        events=forget_events(stores, before=now - REMEMBERED, dry_run=given.dry_run),
        waits=forget_waits(stores, before=now - retain, dry_run=given.dry_run),
        snapshots=remove_snapshots(stores, before=now - retain, dry_run=given.dry_run),
        imports=remove_left_folders(before=strays, dry_run=given.dry_run)
        + remove_unfinished(stores.rejects, before=strays, dry_run=given.dry_run),
    )


def forget_events(stores: Stores, *, before: datetime, dry_run: bool = False) -> int:
    """Have the ledger forget events that are stored, and done, some at a time. Blocking.

    Args:
        stores: The ledger.
        before: Those taken later stay, UTC.
        dry_run: Forget none, and tell how many would be.

    Returns:
        How many are forgotten.

    Raises:
        StoreUnavailable: The ledger cannot be read or written. Asking again does what is missing.
    """
    database, forgotten = stores.ledger.database, 0
    old = (taken.c.stored == 1, taken.c.done == 1, taken.c.taken_at < instant(before))
    if dry_run:
        query = select(func.count()).select_from(taken).where(*old)
        return int(database.read(lambda connection: connection.execute(query).scalar_one()))
    some = select(taken.c.event_id).where(*old).limit(FORGOTTEN_AT_ONCE)
    while gone := database.write_now(
        lambda connection: connection.execute(delete(taken).where(taken.c.event_id.in_(some))).rowcount
    ):
        forgotten += gone
    return forgotten


def forget_waits(stores: Stores, *, before: datetime, dry_run: bool = False) -> int:
    """Have the ledger forget what those have waited for who left, and which pauses held them. Blocking.

    What a wait ended with stays, as the answer of its element.

    Args:
        stores: The ledger.
        before: Those who left later stay, UTC.
        dry_run: Forget nothing, and tell how much would be.

    Returns:
        How many records are forgotten.

    Raises:
        StoreUnavailable: The ledger cannot be read or written. Asking again does what is missing.
    """
    database, forgotten = stores.ledger.database, 0
    do = database.read if dry_run else database.write_now
    for table in (waits, hits, held):
        last: str | None = ""
        while last is not None:
            last, number = do(partial(_some_waits, table=table, after=last, before=before, dry_run=dry_run))
            forgotten += number
    return forgotten


def _some_waits(
    connection: Connection, *, table: Table, after: str, before: datetime, dry_run: bool
) -> tuple[str | None, int]:
    """Forget what is due of the next passages, in their order: so neither a question nor a deletion is long.

    Returns:
        The last of these passages, None where there are no more; and how many records are forgotten.
    """
    own = table.c.passage
    query = select(own).where(own > after).distinct().order_by(own).limit(STAYS_AT_ONCE)
    some = connection.execute(query).scalars().all()
    if not some:
        return None, 0
    last = some[-1]
    left = select(passages.c.passage).where(passages.c.passage == own, passages.c.closed_at < instant(before))
    due = (own > after, own <= last, left.exists())
    if dry_run:
        return last, int(connection.execute(select(func.count()).select_from(table).where(*due)).scalar_one())
    return last, connection.execute(delete(table).where(*due)).rowcount


def remove_snapshots(stores: Stores, *, before: datetime, dry_run: bool = False) -> int:
    """Remove the audiences that were evaluated, and from which nobody enters any more. Blocking.

    Args:
        stores: The ledger, and the folder of snapshots.
        before: Those written later stay, UTC.
        dry_run: Remove nothing, and tell what would be.

    Returns:
        How many were removed.

    Raises:
        StoreUnavailable: The ledger cannot be read, or a file cannot be removed.
    """
    query = select(enrolments.c.enrolment).where(_admitting())
    admitting = set(stores.ledger.database.read(lambda connection: connection.execute(query).scalars().all()))
    old = [
        path
        for path in stores.snapshots.glob("*")
        if unquote(path.stem) not in admitting and path.stat().st_mtime < before.timestamp()
    ]
    for path in old if not dry_run else ():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"the audience {str(path)!r} cannot be removed: {error.strerror}") from error
    return len(old)


def _admitting() -> ColumnElement[bool]:
    """Tell the enrolments that have not dealt with all of their audience, in journeys that are not finished."""
    running = select(journeys.c.journey).where(journeys.c.state != "finished")
    return and_(enrolments.c.cursor < enrolments.c.audience, enrolments.c.journey.in_(running))


def bury_dead_addresses(stores: Stores, *, dry_run: bool = False) -> int:
    """Write the addresses that providers called dead into the table of devices. Blocking.

    The ledger forgets them one upkeep later, so that whoever still reads the version before finds them there; with them
    go those that are dead no more, since the device was seen again or has another address.

    Args:
        stores: Tables and ledger.
        dry_run: Change nothing, and tell what would be written.

    Returns:
        How many devices were written.

    Raises:
        StoreUnavailable: A store cannot be reached. Asking again does what is missing.
    """
    dead = stores.claims.all_dead()

    def unwritten(devices: pl.LazyFrame) -> pl.DataFrame:
        marked = mark_dead(devices, stores.profiles.default_provider, dead)
        if DEAD_ADDRESS in devices.collect_schema().names():
            same = (pl.col(DEAD_ADDRESS) == pl.col(MARKED)) & (pl.col(DEAD_SINCE) == pl.col(SINCE))
            marked = marked.filter(~same.fill_null(False))
        return stores.tables.collect(
            marked.select("device_id", pl.col(MARKED).alias(DEAD_ADDRESS), pl.col(SINCE).alias(DEAD_SINCE))
        )

    if not dead:
        return 0
    if dry_run:
        return unwritten(stores.tables.scan("devices")).height
    waiting = {(device, at) for device, at, _ in unwritten(stores.tables.scan("devices")).iter_rows()}
    written = stores.tables.update("devices", unwritten, "device_id").updated
    stores.claims.forget_dead(one for one in dead if (one[0], f"{one[1]}:{one[2]}") not in waiting)
    return written


def needed_versions(database: Database) -> dict[str, set[int]]:
    """Find the table versions that decided about users who are still inside, or from whom enrolment still admits.

    Args:
        database: Holds the ledger.

    Returns:
        Table name to versions.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    inside = select(passages.c.enrolment).where(passages.c.closed_at.is_(None))
    audiences = select(enrolments.c.tables).where(or_(_admitting(), enrolments.c.enrolment.in_(inside)))
    decisions = (
        select(steps.c.tables)
        .join(passages, passages.c.passage == steps.c.passage)
        .where(passages.c.closed_at.is_(None), steps.c.tables.is_not(None))
    )

    def work(connection: Connection) -> set[str]:
        return {row.tables for query in (audiences, decisions) for row in connection.execute(query.distinct())}

    found: dict[str, set[int]] = {}
    for text in database.read(work):
        for table, version in json.loads(text).items():
            found.setdefault(table, set()).add(version)
    return found
