"""Commands that run things: dev, worker, start."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from temporalio.client import Client

from activities.life import stats_of
from scripts.output import json_option, people, print_json, wants_json
from scripts.watching import print_stats
from workers.connecting import connect, embedded_server
from workers.embedded import is_alive, run_embedded_server
from workers.engine import Engine, StartReport
from workers.serving import QUEUES, serving, until_told_to_stop
from workers.settings import load_settings
from workflows.contracts import Stats
from workflows.errors import RefusedError


@click.command()
@json_option
def dev() -> None:
    """Run the embedded Temporal server and a worker, until Ctrl-C, which drains them."""
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
        people().print("draining")
    people().print("stopped")


@click.command()
@click.option(
    "--role", type=click.Choice(list(QUEUES)), default="all", show_default=True, help="Which queues to serve."
)
def worker(role: Any) -> None:
    """Run a production worker, the same as `python -m workers`."""
    import logging

    from workers.__main__ import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(role))


@click.command()
@click.argument("journey")
@click.option("--wait", is_flag=True, help="Wait until the journey has finished, and print its numbers.")
@json_option
def start(journey: str, wait: bool) -> None:
    """Start JOURNEY: a saved one, as NAME or NAME@3, or a file, which is checked and saved first."""
    asyncio.run(_start(journey, wait))


async def _start(journey: str, wait: bool) -> None:
    with Engine.open() as engine:
        client = await connect(engine.settings)
        report = await engine.start(journey, client=client)
        if not wait:
            if wants_json():
                print_json(report)
            else:
                running = "was running already" if report.already_running else "is started"
                people().print(
                    f"[bold]{report.journey}[/] v{report.version} {running}, audience {report.audience}: "
                    f"workflow {report.workflow_id}"
                )
                people().print(f"watch it with: journeys stats {report.journey}")
            return
        stats = await wait_for_end(engine, client, report)
    if wants_json():
        print_json(stats)
    else:
        print_stats(stats)


async def wait_for_end(engine: Engine, client: Client, report: StartReport) -> Stats:
    """Wait for a started journey to end, with a progress bar on standard error.

    Args:
        engine: The stores.
        client: Reaches the server.
        report: What `start` gave.

    Returns:
        The final numbers.
    """
    before = await asyncio.to_thread(stats_of, engine.stores, report.journey, report.version)
    done_before = sum(before.exited.values()) + sum(before.refused.values()) if report.already_running else 0
    over = asyncio.create_task(engine.result(report, client=client))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_progress_console(),
        transient=False,
    ) as progress:
        task = progress.add_task(report.journey, total=report.audience)
        baseline: int | None = None if not report.already_running else done_before
        while not over.done():
            stats = await asyncio.to_thread(stats_of, engine.stores, report.journey, report.version)
            done = sum(stats.exited.values()) + sum(stats.refused.values())
            baseline = 0 if baseline is None else baseline
            progress.update(task, completed=max(0, done - baseline))
            await asyncio.wait([over], timeout=0.3)
        progress.update(task, completed=report.audience)
    return over.result()


def _progress_console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


COMMANDS = (dev, worker, start)
