"""Upkeep of the audience tables: `journeys upkeep`, at once or by a schedule."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import click
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.upkeep import retention, tidy_tables
from scripts.output import json_option, people, print_json, print_table, wants_json
from workers.connecting import connect
from workers.engine import Engine
from workers.settings import load_settings
from workflows.conditions import duration
from workflows.contracts import JOURNEYS_QUEUE
from workflows.errors import RefusedError
from workflows.upkeep import DEFAULT_RETAIN, UPKEEP_ID, Upkeep, UpkeepInput

NEVER = "never"
SHORTEST = timedelta(minutes=1)
"""Shortest time between two upkeeps by a schedule."""


@click.command()
@click.option(
    "--retain",
    default=DEFAULT_RETAIN,
    show_default=True,
    metavar="DURATION",
    help="How long files stay after newer versions replaced them. What decided about users who are still inside a "
    "journey stays anyway.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and tell what would be done.")
@click.option(
    "--every", metavar="DURATION|never", help="Have a worker do it this often, or never again; nothing is done now."
)
@json_option
def upkeep(retain: str, dry_run: bool, every: str | None) -> None:
    """Compact the audience tables.

    Small files become large ones, and old files are removed that no version still needs. Devices whose address a
    provider called dead are marked; no other row changes.
    """
    retention(retain)
    given = UpkeepInput(retain=retain, dry_run=dry_run)
    if every is not None:
        if dry_run:
            raise RefusedError("--dry-run and --every exclude each other", code="usage")
        _print_schedule(asyncio.run(_schedule(given, every.strip())))
        return
    with Engine.open() as engine, people().status("tidying the tables"):
        report = tidy_tables(engine.stores, given)
    if wants_json():
        print_json(report)
        return
    columns = ("table", "version", "files_before", "files_after", "vacuumed")
    if dry_run:
        people().print("nothing was done; this would be:")
    print_table(
        [column.replace("_", " ") for column in columns],
        [[getattr(one, column) for column in columns] for one in report.tables],
    )
    if report.dead_devices:
        people().print(f"dead addresses written into the table of devices: {report.dead_devices}")
    if report.events:
        people().print(f"events forgotten by the ledger, done long ago: {report.events}")
    if report.waits:
        people().print(f"waits forgotten by the ledger, of users who left: {report.waits}")
    if report.snapshots:
        people().print(f"audiences removed, from which nobody enters any more: {report.snapshots}")
    if report.imports:
        people().print(f"killed imports whose temporary files are removed: {report.imports}")


async def _schedule(given: UpkeepInput, every: str) -> dict[str, Any]:
    """Make, change or remove the schedule, and tell which."""
    interval = None if every == NEVER else _interval(every)
    client = await connect(load_settings())
    done = await _removed(client) if interval is None else await _scheduled(client, given, interval)
    lasting = interval is not None
    return {
        "schedule": UPKEEP_ID,
        "every": every if lasting else None,
        "retain": given.retain if lasting else None,
        "done": done,
    }


def _interval(text: str) -> timedelta:
    """Read how often upkeep is done."""
    try:
        interval = duration(text)
    except ValueError as error:
        raise RefusedError(f"{error}, or `{NEVER}`", code="wrong-duration") from None
    if interval < SHORTEST:
        raise RefusedError(f"{text!r} is too often: once a minute is the most", code="wrong-duration")
    return interval


async def _scheduled(client: Client, given: UpkeepInput, interval: timedelta) -> str:
    """Make the schedule, or change the one that is there."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(Upkeep.run, given, id=UPKEEP_ID, task_queue=JOURNEYS_QUEUE),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    try:
        await client.create_schedule(UPKEEP_ID, schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(UPKEEP_ID).update(lambda _: ScheduleUpdate(schedule))
        return "changed"
    return "created"


async def _removed(client: Client) -> str:
    """Remove the schedule, or find that there is none."""
    try:
        await client.get_schedule_handle(UPKEEP_ID).delete()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return "absent"
        raise
    return "removed"


def _print_schedule(report: dict[str, Any]) -> None:
    """Print what became of the schedule."""
    if wants_json():
        print_json(report)
        return
    words = {
        "created": f"the tables are tidied every {report['every']} from now on, by the worker of {JOURNEYS_QUEUE!r}",
        "changed": f"the schedule was there and is changed: the tables are tidied every {report['every']}",
        "removed": "the schedule is removed: the tables are tidied by `journeys upkeep` alone",
        "absent": "there is no schedule: nothing to remove",
    }
    people().print(words[report["done"]], markup=False)


COMMANDS = (upkeep,)
