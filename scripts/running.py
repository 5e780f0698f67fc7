"""Commands that run things: dev, worker, start."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from temporalio.client import Client

from activities.life import stats_of
from scripts.funnel import print_stats
from scripts.output import json_option, people, print_json, wants_json
from workers.__main__ import serve
from workers.connecting import connect, embedded_server
from workers.embedded import is_alive, run_embedded_server
from workers.engine import Engine, StartReport, is_file
from workers.serving import QUEUES, serving, until_told_to_stop
from workers.settings import load_settings
from workflows.contracts import Stats
from workflows.errors import DefinitionError, RefusedError


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(role))
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


COMMANDS = (dev, worker, start)
