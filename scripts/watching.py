"""Commands that watch: stats, explain, pushes."""

from __future__ import annotations

import click
from rich.markup import escape

from activities.life import stats_of
from activities.records.reports import Explanation, list_pushes
from activities.records.reports import explain as explain_user
from scripts.funnel import print_stats
from scripts.output import instant, json_option, people, print_json, print_table, wants_json
from workers.engine import Engine
from workflows.documents import BRANCH_LABELS
from workflows.errors import NotFoundError


@click.command()
@click.argument("journey")
@click.option("--version", type=click.IntRange(min=1), default=None, help="Which version; left out: the last that ran.")
@json_option
def stats(journey: str, version: int | None) -> None:
    """Count who entered, took each branch, was pushed, and left."""
    with Engine.open() as engine:
        found = stats_of(engine.stores, journey, version or 0)
    if wants_json():
        print_json(found)
    else:
        print_stats(found)


@click.command()
@click.argument("journey")
@click.argument("user")
@json_option
def explain(journey: str, user: str) -> None:
    """Tell what a journey did for one user and why.

    Each passage with its steps, and each time the user was refused, with the reason.
    """
    with Engine.open() as engine:
        engine.stores.catalogue.find("journey", journey)
        found = explain_user(engine.stores.ledger.database, journey, user)
        if not found.runs and not found.refused:
            require_user(engine, user)
    if wants_json():
        print_json(found)
    else:
        _print_explanation(found)


def require_user(engine: Engine, user: str) -> None:
    """Refuse a user who is not in the tables.

    Raises:
        NotFoundError: There is no such user.
    """
    tables = engine.stores.tables
    if tables.collect(tables.scan("users").filter(user_id=user).select("user_id")).is_empty():
        raise NotFoundError(
            f"there is no user {user!r} in the table users",
            hint="ids are compared letter by letter; see what is imported: journeys tables",
        )


def _print_explanation(found: Explanation) -> None:
    console, user = people(), f"[bold]{escape(found.user_id)}[/]"
    if not found.runs and not found.refused:
        console.print(f"{user} was never in the audience of {escape(found.journey)}, nor asked to enter it")
    for run in found.runs:
        end = "is inside" if run.state == "inside" else "waits for its run"
        if run.left_at is not None:
            how = f"by the exit {run.exit!r}" if run.exit else f"early ({run.reason})"
            end = f"left {how} at {instant(run.left_at)}"
        key = f" with key {run.key!r}" if run.key else ""
        console.print(f"{user} entered version {run.version}{escape(key)} at {instant(run.entered_at)}: {escape(end)}")
        print_table(
            ("at", "element", "branch", "because"),
            [(step.at, step.element, BRANCH_LABELS.get(step.branch, step.branch), step.because) for step in run.steps],
        )
    for refusal in found.refused:
        console.print(f"{user} was refused by version {refusal.version} at {instant(refusal.at)}: {refusal.reason}")


@click.command()
@click.argument("journey", required=False)
@click.option("--user", help="Only to this user.")
@click.option("--outcome", help="Only with this outcome, such as accepted.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Most rows to list.")
@json_option
def pushes(journey: str | None, user: str | None, outcome: str | None, limit: int) -> None:
    """List and count pushes, newest first.

    Those of all journeys, or only of JOURNEY.
    """
    with Engine.open() as engine:
        if journey is not None:
            engine.stores.catalogue.find("journey", journey)
        found = list_pushes(engine.stores.ledger.database, journey=journey, user_id=user, outcome=outcome, limit=limit)
    if wants_json():
        print_json(found)
        return
    if found.pushes:
        print_table(
            ("at", "user", "device", "element", "provider", "outcome", "title"),
            [
                (push.at, push.user_id, push.device_id, push.element, push.provider, push.outcome, push.title)
                for push in found.pushes
            ],
        )
    people().print(f"{len(found.pushes):,} of {found.total:,} pushes")


COMMANDS = (stats, explain, pushes)
