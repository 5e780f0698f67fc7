"""Commands that look ahead: plan, diff; and clone, which begins another journey from one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from activities.planning.comparing import BranchChange, Comparison
from activities.planning.plan import Plan
from scripts.funnel import print_plan, summed
from scripts.output import counted, instant, json_option, people, print_json, print_table, wants_json
from workers.engine import Engine
from workers.versions import clone as clone_journey
from workers.versions import compare
from workflows.documents import BRANCH_LABELS

HOURS_SHOWN = 24
"""Most hours of a forecast that people are shown; `--json` has every minute."""


@click.command()
@click.argument("journey")
@json_option
def plan(journey: str) -> None:
    """Tell exactly who would enter now, and what would be sent.

    JOURNEY is a saved one, as NAME or NAME@3, or a file. What cannot be known before is said. Nothing is sent, and
    nothing is written.
    """
    with Engine.open() as engine:
        found = engine.plan(journey)
    if wants_json():
        print_json(found)
        return
    print_plan(found)
    _print_notes(found)
    _print_forecast(found)


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--ids", is_flag=True, help="Name the users who would take another branch.")
@json_option
def diff(before: str, after: str, ids: bool) -> None:
    """Show two versions side by side, and who would go elsewhere.

    BEFORE and AFTER are each a saved journey, as NAME or NAME@3, or a file. Both are planned over the same snapshot.
    """
    with Engine.open() as engine:
        found = compare(engine, before, after, ids=ids)
    if wants_json():
        print_json(found)
        return
    _print_changes(found)
    _print_moves(found)


@click.command()
@click.argument("name")
@click.argument("new")
@json_option
def clone(name: str, new: str) -> None:
    """Save a journey under a new name.

    NAME is a saved journey, as NAME or NAME@3; NEW is the name of the copy, which begins at version 1.
    """
    with Engine.open() as engine:
        saved = clone_journey(engine, name, new)
    if wants_json():
        print_json(saved)
    else:
        people().print(f"saved {saved.name} version {saved.version}, digest {saved.digest}", markup=False)


def _print_notes(found: Plan) -> None:
    """Print what the numbers do not say."""
    console = people()
    notes = [f"entry {name}: {entry.unknown}" for name, entry in found.entries.items() if entry.unknown]
    notes += [
        f"entry {name}: comes in first at {instant(entry.at)}" for name, entry in found.entries.items() if entry.at
    ]
    told = {entry.unknown for entry in found.entries.values()}
    unsure: dict[str, list[str]] = {}
    for name, element in found.elements.items():
        gone = {reason: users for reason, users in element.left.items() if reason != "end"}
        if gone:
            notes.append(f"{name}: {summed(gone)} would leave here")
        if element.unknown:
            why = [] if element.unknown in told else [element.unknown]
            unsure.setdefault("; ".join([*why, *_more(element.may_arrive)]), []).append(name)
    notes += [f"{', '.join(names)}: {text}" for text, names in unsure.items() if text]
    if any(element.later for element in found.elements.values()):
        notes.append("users who arrive later than now are counted as if the tables stay as they are")
    for note in notes:
        console.print(f"- {note}", markup=False)


def _more(may_arrive: int | None) -> list[str]:
    """Say how many may arrive beside those who are counted; null: nobody can tell."""
    if may_arrive is None:
        return ["others may arrive"]
    return [f"up to {may_arrive:,} more may arrive"] if may_arrive else []


def _print_forecast(found: Plan) -> None:
    """Print the pushes by the hour, with the fullest minute of each."""
    if not found.forecast:
        return
    hours: Counter[datetime] = Counter()
    fullest: Counter[datetime] = Counter()
    for minute in found.forecast:
        hour = minute.at.replace(minute=0)
        hours[hour] += minute.pushes
        fullest[hour] = max(fullest[hour], minute.pushes)
    rows = sorted(hours.items())
    print_table(("hour", "pushes", "in its fullest minute"), [(at, n, fullest[at]) for at, n in rows[:HOURS_SHOWN]])
    if rest := rows[HOURS_SHOWN:]:
        people().print(f"and {sum(number for _, number in rest):,} in {counted(len(rest), 'later hour')}")


def _print_changes(found: Comparison) -> None:
    if not found.changes:
        people().print("both say the same")
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for heading in ("", found.before, found.after):
        table.add_column(Text(heading), overflow="fold")
    for change in found.changes:
        table.add_row(
            Text(change.path),
            Text(_said(change.before), style="red" if change.after is None else ""),
            Text(_said(change.after), style="green" if change.before is None else ""),
        )
    people().print(table)


def _print_moves(found: Comparison) -> None:
    console = people()
    rows = [("", *row) for row in _rows(found.entering)]
    for split in found.splits:
        rows += [(split.element, *row) for row in _rows(split.changed)]
    if rows:
        console.print("")
        print_table(("element", found.before, found.after, "users", "who"), rows)
    else:
        console.print("\nnobody would take another branch")
    for split in found.splits:
        if split.unknown:
            console.print(f"- {split.element}: {split.unknown}", markup=False)


def _rows(changed: list[BranchChange]) -> Iterator[tuple[str, str, int, str]]:
    for one in changed:
        yield _branch(one.before), _branch(one.after), one.users, ", ".join(one.user_ids or ())


def _branch(name: str | None) -> str:
    return "does not come" if name is None else BRANCH_LABELS.get(name, name)


def _said(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


COMMANDS = (plan, diff, clone)
