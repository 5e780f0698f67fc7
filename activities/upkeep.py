"""Upkeep of the audience tables: what the ledger still needs is found, and everything else may be tidied away."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, and_, or_, select
from temporalio import activity

from activities.faults import as_failures
from activities.records.database import Database
from activities.records.rows import enrolments, journeys, passages, steps
from activities.stores import Stores
from activities.tables.delta import TABLES
from activities.tables.tidying import tidy
from workflows.conditions import duration
from workflows.errors import RefusedError
from workflows.upkeep import UpkeepInput, UpkeepReport

LEAST = timedelta(hours=1)
"""Shortest time that replaced files stay: an evaluation that began before may read them for as long."""
BEAT_SECONDS = 5.0


class UpkeepActivities:
    """Tidies the audience tables.

    Args:
        stores: Tables and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="upkeep")
    @as_failures
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
        beating = asyncio.create_task(_beat())
        try:
            return await asyncio.to_thread(tidy_tables, self._stores, given)
        finally:
            beating.cancel()


async def _beat() -> None:
    """Tell the server that the worker lives: tidying is one long call in a thread."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_SECONDS)


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
    needed = needed_versions(stores.ledger.database)
    tidied = [
        tidy(stores.tables, name, retain=retain, needed=needed.get(name, set()), now=now, dry_run=given.dry_run)
        for name in TABLES
    ]
    return UpkeepReport(tables=[one for one in tidied if one is not None])


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
    running = select(journeys.c.journey).where(journeys.c.state != "finished")
    audiences = select(enrolments.c.tables).where(
        or_(
            and_(enrolments.c.cursor < enrolments.c.audience, enrolments.c.journey.in_(running)),
            enrolments.c.enrolment.in_(inside),
        )
    )
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
