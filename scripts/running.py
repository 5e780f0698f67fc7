"""Commands that run things: dev, worker, start, event."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime
from typing import Any

import click
import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from temporalio.client import Client

from activities.life import stats_of
from activities.tables.inference import infer, read_as
from scripts.funnel import print_stats
from scripts.output import counted, json_option, people, print_json, wants_json
from workers.__main__ import serve
from workers.connecting import connect, embedded_server
from workers.documents import is_file
from workers.embedded import is_alive, run_embedded_server
from workers.engine import Engine, StartReport
from workers.logs import set_up_logs
from workers.serving import QUEUES, serving, until_told_to_stop
from workers.settings import load_settings
from workflows.contracts import Stats
from workflows.errors import DefinitionError, RefusedError
from workflows.events import EventTaken


@click.command()
@json_option
def dev() -> None:
    """Run the embedded Temporal server and a worker.

    Until Ctrl-C, which drains the worker and stops the server. All state is kept in the home.
    """
    stop_as_by_ctrl_c()
    asyncio.run(_dev())


async def _dev() -> None:
    settings = load_settings()
    running = embedded_server(settings)
    if running is not None and is_alive(running):
        raise RefusedError(
            f"a server runs for {str(settings.home)!r} already, at {running.address}; its UI is at {running.ui}",
            code="already-running",
            hint="use it, or stop it with Ctrl-C where it was started",
        )
    async with run_embedded_server(settings) as server, serving(settings):
        if wants_json():
            print_json({"address": server.address, "ui": server.ui, "home": str(settings.home)})
        else:
            people().print(f"Temporal server  {server.address}\nTemporal UI      {server.ui}")
            people().print(f"home             {settings.home}\nworker           serving; Ctrl-C drains and stops")
        await until_told_to_stop()
        people(stderr=True).print("draining")
    people(stderr=True).print("stopped")


def stop_as_by_ctrl_c() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that the server it started is stopped with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@click.command()
@click.option(
    "--role", type=click.Choice(list(QUEUES)), default="all", show_default=True, help="Which queues to serve."
)
@json_option
def worker(role: Any) -> None:
    """Run a production worker, the same as `python -m workers`.

    Until Ctrl-C or SIGTERM, which drain it. It logs to standard error.
    """
    settings = load_settings()
    set_up_logs(settings)
    asyncio.run(serve(settings, role))
    if wants_json():
        print_json({"role": role, "queues": list(QUEUES[role]), "stopped": True})


@click.command()
@click.argument("journey")
@click.option("--wait", is_flag=True, help="Wait until the journey has finished, and print its numbers.")
@json_option
def start(journey: str, wait: bool) -> None:
    """Start a journey.

    JOURNEY is a saved one, as NAME or NAME@3, or a file, which is checked and saved first.
    """
    asyncio.run(_start(journey, wait))


async def _start(journey: str, wait: bool) -> None:
    with Engine.open() as engine:
        if is_file(journey):  # its faults are told also where no server runs
            report = await asyncio.to_thread(engine.check, [journey])
            if not report.ok:
                raise DefinitionError(report.errors)
        client = await connect(engine.settings)
        found = await asyncio.to_thread(engine.prepare, journey)
        done_before = _done(await asyncio.to_thread(stats_of, engine.stores, found.name, found.version))
        with people(stderr=True).status(f"starting {found.name}"):
            started = await engine.start(f"{found.name}@{found.version}", client=client)
        if not wait:
            _tell(started)
            return
        stats = await wait_for_end(engine, client, started, done_before=done_before)
    if wants_json():
        print_json(stats)
    else:
        print_stats(stats)


def _tell(started: StartReport) -> None:
    if wants_json():
        print_json(started)
        return
    how = "was running already" if started.already_running else "is started"
    audience = "not evaluated yet" if started.audience is None else f"{started.audience:,}"
    people().print(f"[bold]{started.journey}[/] v{started.version} {how}, audience {audience}")
    people().print(f"its workflow in Temporal: {started.workflow_id}\nwatch it: journeys stats {started.journey}")


async def wait_for_end(engine: Engine, client: Client, started: StartReport, *, done_before: int = 0) -> Stats:
    """Wait for a started journey to end, with a progress bar on standard error.

    Args:
        engine: The stores.
        client: Reaches the server.
        started: What `start` gave.
        done_before: How many of this version had left or were refused before this start.

    Returns:
        The final numbers.
    """
    over = asyncio.create_task(engine.result(started, client=client))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=people(stderr=True)) as progress:
        task = progress.add_task(started.journey, total=started.audience)
        while not over.done():
            stats = await asyncio.to_thread(stats_of, engine.stores, started.journey, started.version)
            if started.already_running:  # what was done before this start is told by the audience
                done_before = max(0, stats.audience - (started.audience or stats.audience))
            progress.update(task, completed=max(0, _done(stats) - done_before))
            await asyncio.wait([over], timeout=0.3)
        if over.exception() is None:
            progress.update(task, completed=started.audience)
    return over.result()


def _done(stats: Stats) -> int:
    return sum(stats.exited.values()) + sum(stats.refused.values())


@click.command()
@click.argument("user")
@click.argument("name")
@click.option("--at", metavar="INSTANT", help="When it happened, such as 2027-03-31T10:00:00Z; left out: now.")
@click.option("--id", "event_id", default="", help="Names it, so that giving it again does nothing twice.")
@click.option(
    "--set", "values", multiple=True, metavar="KEY=VALUE", help="A property; its type is read as from a CSV file."
)
@json_option
def event(user: str, name: str, at: str | None, event_id: str, values: tuple[str, ...]) -> None:
    """Take an event of a user.

    It is stored, starts the runs of trigger entries, reaches the runs that wait for it, and counts for goals.
    """
    moment = read_instant(at) if at is not None else None
    properties = dict(map(_property, values))

    async def take() -> EventTaken:
        return await engine.event(user, name, at=moment, event_id=event_id, properties=properties)

    with Engine.open() as engine:
        taken = asyncio.run(take())
    if wants_json():
        print_json(taken)
        return
    for warning in taken.warnings:
        people(stderr=True).print(f"warning: {warning}", markup=False)
    started, reached = counted(taken.started, "run"), counted(taken.delivered, "waiting run")
    people().print(f"event {taken.event_id}: {started} started, {reached} reached", markup=False)


def read_instant(text: str) -> datetime:
    """Read an instant that a person wrote.

    Raises:
        RefusedError: The text is no instant, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(f"{text!r} is no instant: write 2027-03-31T10:00:00Z", code="usage") from None
    if found.tzinfo is None:
        raise RefusedError(f"{text!r} has no zone: write {text}Z for UTC, or with an offset", code="usage")
    return found


def _property(text: str) -> tuple[str, str | int | float | bool | list[str]]:
    """Read `KEY=VALUE`; the value as a cell of a file would be read."""
    key, equals, cell = text.partition("=")
    if not equals or not key.strip():
        raise RefusedError(f"--set {text!r}: write KEY=VALUE", code="usage")
    column = pl.Series(key, [cell], dtype=pl.String)
    kind = infer(column)
    # Dates, prices and versions stay texts, which are read again where they are stored.
    value = read_as(column, kind).item() if kind in ("integer", "number", "boolean", "list") else cell
    return key.strip(), value.to_list() if isinstance(value, pl.Series) else value


COMMANDS = (dev, worker, start, event)
