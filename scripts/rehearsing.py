"""Commands that rehearse: try, test."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from scripts.output import DONE, FAILED, counted, instant, json_option, people, print_json, wants_json
from workers.cases import CaseResult, natural, run_cases
from workers.engine import Engine
from workers.rehearsal import NOT_IN_AUDIENCE, rehearse
from workers.rehearsed import GivenEvent, GivenUser, Rehearsal
from workers.stage import open_stage
from workflows.documents import BRANCH_LABELS
from workflows.errors import RefusedError
from workflows.scalars import duration


@click.command(name="try")
@click.argument("journey")
@click.option("--user", required=True, help="Who passes: an id of the table of users.")
@click.option("--entry", default="", help="The entry; left out: the one that the first event sets off, else the first.")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="NAME[@AFTER][={...}]",
    help='What the user does, with its properties as JSON: purchase@2h={"total": "20 EUR"}. Without @AFTER: as soon '
    "as the user waits.",
)
@click.option("--value", "values", multiple=True, metavar="NAME=VALUE", help="A value for an API entry.")
@click.option("--anyway", is_flag=True, help="Let a user in who is not in the audience.")
@json_option
def try_(journey: str, user: str, entry: str, events: tuple[str, ...], values: tuple[str, ...], anyway: bool) -> None:
    """Have one user pass a journey at once; nothing is sent.

    JOURNEY is a saved one, as NAME or NAME@3, or a file. Time is skipped, and each step is shown. The run is the one of
    production, on a server of its own and a copy of the user's rows: nothing real is written.
    """
    given = [read_event(text) for text in events]
    named = dict(_value(text) for text in values)

    async def run() -> Rehearsal:
        async with open_stage(engine.settings) as stage:
            who = GivenUser(user=user)
            return await rehearse(stage, engine, journey, who, given, entry=entry, values=named, anyway=anyway)

    with Engine.open() as engine:
        found = asyncio.run(run())
    if wants_json():
        print_json(found)
    else:
        _print_rehearsal(found)


@click.command(name="test")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--case", "only", help="Only this one.")
@json_option
def test_(file: Path, only: str | None) -> int:
    """Rehearse the cases of a file.

    FILE names a journey, and users with what they do and where they have to end. Those that end otherwise are told, and
    the exit status is 1.
    """
    with Engine.open() as engine:
        found = asyncio.run(run_cases(engine, file, only))
    if wants_json():
        print_json(found)
    else:
        for one in found.cases:
            _print_case(one)
        failed = sum(not one.ok for one in found.cases)
        people().print(f"{counted(len(found.cases), 'case')}, {failed} failed")
    return DONE if found.ok else FAILED


def read_event(text: str) -> GivenEvent:
    """Read `NAME`, `NAME@AFTER` or `NAME@AFTER={...}`.

    Raises:
        RefusedError: It is none of these.
    """
    name, equals, properties = text.partition("=")
    name, at, after = name.partition("@")
    try:
        found: Any = json.loads(properties) if equals else {}
        if at:
            duration(after)
    except ValueError as error:
        raise RefusedError(f"--event {text!r} cannot be read: {error}", code="usage") from None
    if not name.strip() or not isinstance(found, dict):
        raise RefusedError(f'--event {text!r}: write NAME={{"property": "value"}}', code="usage")
    return GivenEvent(event=name.strip(), after=after if at else None, properties=found)


def _value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise RefusedError(f"--value {text!r}: write NAME=VALUE", code="usage")
    return name.strip(), natural(value)


def _print_case(result: CaseResult) -> None:
    console = people()
    console.print(Text("ok" if result.ok else "failed", style="green" if result.ok else "red"), Text(result.case))
    for difference in result.differences:
        console.print(f"    {difference}", markup=False)


def _print_rehearsal(found: Rehearsal) -> None:
    """Print the way, each step with its moment on the run's own clock, and the pushes beneath."""
    console = people()
    if not found.admitted:
        anyway = "; have him enter all the same with --anyway" if found.reason == NOT_IN_AUDIENCE else ""
        said = f"{found.user_id} does not enter {found.journey} by {found.entry}: {found.reason}{anyway}"
        console.print(said, markup=False)
        return
    console.print(f"{found.user_id} enters {found.journey} by {found.entry}; nothing is sent", markup=False)
    for step in found.steps:
        way = "" if step.branch == "next" else f" -> {BRANCH_LABELS.get(step.branch, step.branch)}"
        console.print(
            Text(instant(step.at), style="dim"), Text(step.element, style="bold"), Text(f"{way} {step.because}".strip())
        )
        for push in step.pushes:
            console.print(f"    to {push.device_id} by {push.provider}: {push.title} / {push.body}", markup=False)
        if step.posted is not None:
            data = json.dumps(step.posted["data"], ensure_ascii=False)
            console.print(f"    would post to {step.posted['url']}: {data}", markup=False)
    end = instant(found.left_at) if found.left_at is not None else ""
    console.print(Text(end, style="dim"), Text(f"left at {found.exit}" if found.exit else f"left: {found.reason}"))


COMMANDS = (try_, test_)
