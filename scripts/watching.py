"""Commands that watch: stats, runs, draw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.live import Live

from activities.life import stats_of
from activities.runs import RunList, list_runs
from scripts.drawing.mermaid import draw_mermaid
from scripts.drawing.picture import picture_of
from scripts.drawing.svg import draw_svg
from scripts.funnel import print_stats, shown_stats, stats_csv, stats_line
from scripts.output import INTERRUPTED, json_option, people, print_json, print_table, wants_json
from workers.connecting import connect
from workers.documents import is_file, name_and_version
from workers.engine import Engine
from workflows.contracts import Stats
from workflows.errors import RefusedError

WATCH_SECONDS = 1.0
"""Least time between two counts; more where counting takes long, so that watching takes a tenth of one core at most."""
DRAWERS = {"svg": draw_svg, "mermaid": draw_mermaid}


@click.command()
@click.argument("journey")
@click.option("--version", type=click.IntRange(min=1), default=None, help="Which version; left out: the last that ran.")
@click.option("--watch", is_flag=True, help="Count over and over until the journey has finished, or until Ctrl-C.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="json and csv print once; with --watch, when the journey has finished.",
)
@json_option
def stats(journey: str, version: int | None, watch: bool, form: str) -> int | None:
    """Count who entered, took each branch, was pushed, and left.

    With --watch the table stays up to date; where the output is no terminal, each change is a line. CSV has one row for
    each number: journey, version, element, what is counted, its name, and the number.
    """
    with Engine.open() as engine:
        if watch:
            counts = _counts(engine, journey, version or 0)
            try:
                if form == "table" and not wants_json():
                    _show(counts)
                    return None
                *_, found = counts
            except KeyboardInterrupt:
                return INTERRUPTED
        else:
            found = stats_of(engine.stores, journey, version or 0)
    if form == "csv":
        click.echo(stats_csv(found), nl=False)
    elif wants_json():
        print_json(found)
    else:
        print_stats(found)
    return None


def _counts(engine: Engine, journey: str, version: int) -> Iterator[Stats]:
    """Yield the numbers over and over, the last time when the journey has finished."""
    while True:
        began = time.monotonic()
        found = stats_of(engine.stores, journey, version)
        yield found
        if found.state == "finished":
            return
        time.sleep(max(WATCH_SECONDS, 10 * (time.monotonic() - began)))


def _show(counts: Iterator[Stats]) -> None:
    """Keep a table up to date on a terminal; elsewhere print a line for each change."""
    console = people()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            for found in counts:
                live.update(shown_stats(found), refresh=True)
        return
    said = ""
    for found in counts:
        line = stats_line(found)
        if line != said:
            click.echo(f"{found.as_of:%Y-%m-%dT%H:%M:%SZ} {line}")
            said = line


@click.command()
@click.argument("journey", required=False, metavar="[JOURNEY[@N]]")
@click.option("--user", default="", help="Only of this user.")
@click.option("--at", "element", default="", help="Only those that wait at this element.")
@click.option("--failed", is_flag=True, help="Only those that failed.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Most runs to list.")
@json_option
def runs(journey: str | None, user: str, element: str, failed: bool, limit: int) -> None:
    """List runs and where each user is, those under way first.

    Of all journeys, or only of JOURNEY, or of its version N. Each has the workflow's id, to open it in Temporal's UI.
    """
    found = asyncio.run(_runs(journey or "", user, element, failed, limit))
    if wants_json():
        print_json(found)
        return
    if found.runs:
        print_table(
            ("status", "user", "element", "since", "version", "workflow"),
            [(run.status, run.user_id, run.element, run.since, run.version, run.workflow_id) for run in found.runs],
        )
    people().print(f"{len(found.runs):,} of {found.total:,} runs")


async def _runs(journey: str, user: str, element: str, failed: bool, limit: int) -> RunList:
    name, version = name_and_version(journey)
    with Engine.open() as engine:
        client = await connect(engine.settings)
        return await list_runs(
            client,
            engine.stores,
            journey=name,
            version=version,
            user_id=user,
            element=element,
            failed=failed,
            limit=limit,
        )


@click.command()
@click.argument("journey", metavar="NAME[@N]|FILE")
@click.option("--format", "form", type=click.Choice(list(DRAWERS)), default="svg", show_default=True)
@click.option("--stats", "numbers", is_flag=True, help="With the number of each branch, and why users left.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; left out: printed.")
@json_option
def draw(journey: str, form: str, numbers: bool, output: Path | None) -> None:
    """Draw a journey, and with --stats what became of everybody.

    SVG opens in any browser; Mermaid is text that GitHub, GitLab and many wikis draw.
    """
    with Engine.open() as engine:
        if numbers and is_file(journey):
            raise RefusedError(
                f"{journey!r} is a file, which has no numbers: give the name of a saved journey, or leave out --stats",
                code="usage",
            )
        document, version = engine.read(journey)
        if numbers:
            asked = name_and_version(journey)[1]
            found = stats_of(engine.stores, document.journey, asked)  # the version that ran last, where none is named
            if found.version != version:
                document, version = engine.read(f"{document.journey}@{found.version}")
        picture = picture_of(document, found if numbers else None, version)
    text = DRAWERS[form](picture)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if wants_json():
        drawn = {"journey": document.journey, "version": version or None, "format": form}
        print_json({**drawn, "file": str(output)} if output is not None else {**drawn, "drawing": text})
    elif output is not None:
        people().print(f"drawn: {output}", markup=False)
    else:
        click.echo(text, nl=False)


COMMANDS = (stats, runs, draw)
