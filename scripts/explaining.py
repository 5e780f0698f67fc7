"""Commands on one user: why did this user get it, or not; and which pushes went out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
from rich.markup import escape

from activities.records.reports import ExplainedMove, ExplainedRun, ExplainedStep, Explanation, list_pushes
from activities.records.reports import explain as explain_user
from activities.segments.explaining import leaf_table
from scripts.output import instant, json_option, people, print_json, print_table, wants_json
from workers.engine import Engine
from workflows.documents import BRANCH_LABELS, AudienceEntry, JourneyDocument
from workflows.errors import NotFoundError

REFUSALS = {
    "entered-before": "entered before, and this journey admits each user once",
    "already-inside": "was inside already",
    "too-often": "entered as often as the journey's re-entry rule allows",
    "unknown-user": "is not in the table users",
    "not-running": "the journey was not running",
    "id-too-long": "the user id makes a workflow id that is longer than Temporal takes",
}
"""What a refusal's reason means, for people."""

ENDINGS = {
    "terminated": "an operator terminated the run",
    "cancelled": "an operator cancelled the run",
    "failed": "the run failed: its error stands in Temporal's UI",
    "timed-out": "the run timed out",
}
"""What the reason of an early end means, for people."""


@click.command()
@click.argument("journey")
@click.argument("user")
@json_option
def explain(journey: str, user: str) -> None:
    """Tell why a user got a push of a journey, or not.

    Each passage with its steps and moves, each device that was pushed, and each time the user was refused, with the
    reason. For a user who was never in the audience: each part of the audience's condition, with the value found now.
    """
    with Engine.open() as engine:
        document, _ = engine.read(journey)
        found = explain_user(engine.stores.ledger.database, document.journey, user)
        audience = None
        if not found.runs and not found.refused:
            require_user(engine, user)
            audience = _audience(engine, document, user)
        kinds = _kinds(engine, found)
    if wants_json():
        print_json({**found.model_dump(mode="json"), "audience": audience})
    else:
        _print_explanation(found, kinds, audience or {})


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


def _audience(engine: Engine, document: JourneyDocument, user: str) -> dict[str, Any]:
    """Tell, for each entry with an audience, whether its condition is true of the user now, part by part."""
    segments, now = engine.stores.segments, datetime.now(UTC)
    versions, zone = segments.versions(), document.timezone or segments.zone
    references = segments.references(versions, zone=zone)
    audiences = {name: entry.audience for name, entry in document.entries.items() if isinstance(entry, AudienceEntry)}
    for audience in audiences.values():
        references.require_fit(audience)
    return {
        name: leaf_table(audience, segments.snapshot(versions), as_of=now, zone=zone, resolve=references, user_id=user)
        for name, audience in audiences.items()
    }


def _kinds(engine: Engine, found: Explanation) -> dict[tuple[int, str], str]:
    """Give the kind of each element of the versions that a user passed."""
    kinds: dict[tuple[int, str], str] = {}
    for version in {step.version for run in found.runs for step in run.steps}:
        document, _ = engine.read(f"{found.journey}@{version}")
        kinds |= {(version, name): element.kind for name, element in document.elements.items()}
    return kinds


def _print_explanation(found: Explanation, kinds: dict[tuple[int, str], str], audience: dict[str, Any]) -> None:
    console, user = people(), f"[bold]{escape(found.user_id)}[/]"
    if not found.runs and not found.refused:
        console.print(f"{user} was never in the audience of {escape(found.journey)}, nor asked to enter it")
        for entry, tree in audience.items():
            now = "would be in it now" if tree["true"] else "would not be in it now either"
            console.print(f"by the entry {escape(repr(entry))}, {user} {now}:")
            print_tree(tree, 1)
        return
    console.print(f"{user} {escape(_answer(found))}")
    for run in found.runs:
        key = f" with key {run.key!r}" if run.key else ""
        console.print(f"\nversion {run.version}{escape(key)}: {escape(_ending(run))}")
        rows: list[tuple[Any, ...]] = [(run.entered_at, run.entry, "Entry", "admitted", "")]
        way: list[ExplainedMove | ExplainedStep] = [*run.moves, *run.steps]
        way.sort(key=lambda one: one.step)  # a move stands before what came of it
        for step in way:
            if isinstance(step, ExplainedMove):
                rows.append((step.at, step.from_element, "", "moved", _moved(step)))
                continue
            kind = kinds.get((step.version, step.element), "").replace("-", " ").capitalize()
            rows.append((step.at, step.element, kind, _done(step), step.because))
            if step.tables:
                rows.append(("", "", "", "  read", _read(step)))
            rows += [("", "", "", f"  {push.outcome}: {push.device_id}", _said(push)) for push in step.pushes]
        print_table(("at", "element", "kind", "what", "why"), rows)
    if found.refused:
        console.print("\nrefused at entry:")
        print_table(
            ("at", "version", "reason", "why"),
            [(one.at, f"v{one.version}", one.reason, REFUSALS.get(one.reason, "")) for one in found.refused],
        )


def _answer(found: Explanation) -> str:
    """Answer in one line whether the user got a push, and which."""
    got: list[str] = []
    for run in found.runs:
        for step in run.steps:
            devices = sum(push.outcome == "accepted" for push in step.pushes)
            if devices:
                got.append(f"{step.element} on {devices} device{'' if devices == 1 else 's'}")
    if got:
        return f"got {', '.join(got)}"
    if not found.runs:
        return "got nothing: was refused at entry"
    inside = any(run.left_at is None for run in found.runs)
    return "got nothing so far, and is inside" if inside else "got nothing"


def _ending(run: ExplainedRun) -> str:
    if run.left_at is None:
        return "is inside" if run.state == "inside" else "is admitted, and waits for its run"
    if run.exit:
        return f"left by the exit {run.exit!r} at {instant(run.left_at)}"
    meaning = f": {ENDINGS[run.reason]}" if run.reason in ENDINGS else ""
    return f"left early ({run.reason}) at {instant(run.left_at)}{meaning}"


def _moved(move: ExplainedMove) -> str:
    """Say where a move led."""
    if move.to_version == move.from_version:
        return f"by an operator, to {move.to_element!r}"
    there = f", to {move.to_element!r}" if move.to_element != move.from_element else ""
    return f"from version {move.from_version} to version {move.to_version}{there}"


def _done(step: ExplainedStep) -> str:
    """Say what happened: the branch, where it says more than "next", else the outcome."""
    return step.outcome if step.branch == "next" else BRANCH_LABELS.get(step.branch, step.branch)


def _read(step: ExplainedStep) -> str:
    """Say which versions of the tables a decision read, and when."""
    tables = [f"{table} v{version}" for table, version in (step.tables or {}).items() if version >= 0]
    return ", ".join(tables) + (f", as of {instant(step.as_of)}" if step.as_of is not None else "")


def _said(push: Any) -> str:
    return f"{push.provider}: {push.title!r}" + (f", {push.detail}" if push.detail else "")


def print_tree(node: dict[str, Any], depth: int = 0) -> None:
    """Print a condition part by part, with the value found and whether it is true."""
    mark = "[green]true [/]" if node["true"] else "[red]false[/]"
    people().print(f"{mark} {'  ' * depth}", end="")
    has_value = node["node"] == "leaf" and node.get("value") is not None
    people().print(node["text"] + (f"   (is {node['value']})" if has_value else ""), markup=False)
    for child in node.get("children", ()):
        print_tree(child, depth + 1)


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


COMMANDS = (explain, pushes)
