"""Commands that watch: stats, explain, pushes."""

from __future__ import annotations

import click

from activities.life import stats_of
from activities.records.reports import explain as explain_user
from activities.records.reports import list_pushes
from scripts.output import json_option, people, print_json, print_table, wants_json
from workers.engine import Engine
from workflows.contracts import Stats
from workflows.documents import BRANCH_LABELS


@click.command()
@click.argument("journey")
@click.option("--version", type=click.IntRange(min=1), default=None, help="Which version; left out: the last that ran.")
@json_option
def stats(journey: str, version: int | None) -> None:
    """Print the numbers of JOURNEY: who entered, took each branch, was pushed, and left."""
    with Engine.open() as engine:
        found = stats_of(engine.stores, journey, version or 0)
    if wants_json():
        print_json(found)
    else:
        print_stats(found)


def print_stats(found: Stats) -> None:
    """Print a journey's numbers as a funnel."""
    console = people()
    refused = _counts(found.refused) or "nobody"
    console.print(f"[bold]{found.journey}[/] v{found.version}, {found.state}")
    console.print(
        f"audience {found.audience} = entered {found.entered} + refused ({refused})\n"
        f"entered {found.entered} = inside {found.inside} + left ({_counts(found.exited) or 'nobody'})\n"
    )
    print_table(
        ("element", "arrived", "inside", "then", "left", "users", "devices"),
        [
            (
                name,
                element.arrived,
                element.inside,
                _counts({BRANCH_LABELS.get(way, way): number for way, number in element.branches.items()}),
                _counts(element.left),
                _counts(element.users),
                _counts(element.devices),
            )
            for name, element in found.elements.items()
        ],
    )


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{what} {number}" for what, number in numbers.items())


@click.command()
@click.argument("journey")
@click.argument("user")
@json_option
def explain(journey: str, user: str) -> None:
    """Tell what JOURNEY did for USER and why, refusals included."""
    with Engine.open() as engine:
        engine.stores.catalogue.find("journey", journey)
        found = explain_user(engine.stores.ledger.database, journey, user)
    if wants_json():
        print_json(found)
        return
    console = people()
    if not found.runs and not found.refused:
        console.print(f"{user} was never in the audience of {journey}, nor asked to enter it")
    for run in found.runs:
        end = f"left by {run.exit or run.reason} at {run.left_at}" if run.state == "left" else run.state
        console.print(f"[bold]{user}[/] entered v{run.version} at {run.entered_at}: {end}")
        print_table(
            ("  at", "element", "branch", "because"),
            [
                (f"  {step.at}", step.element, BRANCH_LABELS.get(step.branch, step.branch), step.because)
                for step in run.steps
            ],
        )
    for refusal in found.refused:
        console.print(f"[bold]{user}[/] was refused at {refusal.at}: {refusal.reason}")


@click.command()
@click.argument("journey", required=False)
@click.option("--user", help="Only to this user.")
@click.option("--outcome", help="Only with this outcome, such as accepted.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Most rows to list.")
@json_option
def pushes(journey: str | None, user: str | None, outcome: str | None, limit: int) -> None:
    """List and count pushes, newest first; only those of JOURNEY when it is given."""
    with Engine.open() as engine:
        if journey is not None:
            engine.stores.catalogue.find("journey", journey)
        found = list_pushes(engine.stores.ledger.database, journey=journey, user_id=user, outcome=outcome, limit=limit)
    if wants_json():
        print_json(found)
        return
    print_table(
        ("at", "user", "device", "element", "provider", "outcome", "title"),
        [
            (push.at, push.user_id, push.device_id, push.element, push.provider, push.outcome, push.title)
            for push in found.pushes
        ],
    )
    people().print(f"{len(found.pushes)} of {found.total} pushes")


COMMANDS = (stats, explain, pushes)
