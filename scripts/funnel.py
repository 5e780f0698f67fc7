"""The funnel: the numbers of a journey for people, one line for each thing that became of users."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from io import StringIO

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from activities.planning.plan import Plan
from scripts.output import instant, people, table_of
from workflows.contracts import ElementStats, Stats
from workflows.documents import BRANCH_LABELS


def print_stats(found: Stats) -> None:
    """Print where everybody is, as equations and as a funnel."""
    people().print(shown_stats(found))


def shown_stats(found: Stats) -> Group:
    """Show where everybody is, as equations and as a funnel."""
    lines = [f"[bold]{escape(found.journey)}[/] v{found.version}, {found.state}, as of {instant(found.as_of)}"]
    if found.state == "draft":
        lines.append(escape(f"it has not run yet: journeys start {found.journey}@{found.version}"))
    lines += equations(found)
    lines[-1] += "\n"
    return Group(*(Text.from_markup(line) for line in lines), elements_table(found.elements))


def equations(found: Stats) -> list[str]:
    """Word the numbers of a version so that a reader sees them add up; and its goals, where it has any."""
    came = f" + moved in {found.moved_in:,}" if found.moved_in else ""
    went = f" + moved out {found.moved_out:,}" if found.moved_out else ""
    return [
        f"audience {found.audience:,} = entered {found.entered:,} + refused {summed(found.refused)}",
        f"entered {found.entered:,}{came} = inside {found.inside:,} + left {summed(found.exited)}{went}",
        *(f"goal {name}: {goal.converted:,} converted" for name, goal in found.goals.items()),
    ]


def stats_line(found: Stats) -> str:
    """Write where everybody is on one line, for a log: the same line as long as nothing changes."""
    elements = ", ".join(f"{name} {element.arrived:,}" for name, element in found.elements.items())
    return (
        f"{found.journey} v{found.version} {found.state}: entered {found.entered:,}, "
        f"refused {sum(found.refused.values()):,}, inside {found.inside:,}, left {sum(found.exited.values()):,}; "
        f"arrived: {elements}"
    )


def stats_csv(found: Stats) -> str:
    """Write every number as a row of CSV (RFC 4180), zeros too, so that two counts have the same rows.

    Returns:
        A heading and rows: journey, version, element (empty for the journey itself), what (audience, entered, refused,
        moved in, inside, moved out, left, goal, arrived, branch, users, devices), name (of the entry, branch, reason,
        outcome or goal), number.
    """
    rows: list[tuple[str, str, str, int]] = [("", "audience", "", found.audience)]
    rows += [("", "refused", reason, users) for reason, users in found.refused.items()]
    rows += [("", "entered", entry, users) for entry, users in found.entries.items()]
    rows += [
        ("", "moved in", "", found.moved_in),
        ("", "inside", "", found.inside),
        ("", "moved out", "", found.moved_out),
    ]
    rows += [("", "left", reason, users) for reason, users in found.exited.items()]
    rows += [("", "goal", name, goal.converted) for name, goal in found.goals.items()]
    for name, element in found.elements.items():
        rows += [(name, "arrived", "", element.arrived), (name, "inside", "", element.inside)]
        for what in ("branches", "left", "users", "devices"):
            numbers: dict[str, int] = getattr(element, what)
            rows += [(name, "branch" if what == "branches" else what, one, users) for one, users in numbers.items()]
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(("journey", "version", "element", "what", "name", "number"))
    writer.writerows((found.journey, found.version, *row) for row in rows)
    return text.getvalue()


def print_plan(found: Plan) -> None:
    """Print what starting a journey now would do."""
    console = people()
    console.print(f"[bold]{escape(found.journey)}[/], planned as of {instant(found.as_of)}; nothing is sent")
    entering = found.audience - sum(found.refused.values())
    console.print(f"audience {found.audience:,} = would enter {entering:,} + refused {summed(found.refused)}\n")
    console.print(
        elements_table(
            {
                name: ElementStats(arrived=element.arrived, branches=element.branches, users=element.users)
                for name, element in found.elements.items()
            }
        )
    )
    pushes = found.pushes
    console.print(f"\npushes: {pushes.users:,} users on {summed(pushes.by_provider, noun='devices')}")


def elements_table(elements: Mapping[str, ElementStats]) -> Table:
    """Show each element with what became of those who arrived; the share is of these."""
    with_devices = any(element.devices for element in elements.values())
    rows = [row for name, element in elements.items() for row in _rows(name, element)]
    headings = ("element", "users", "share", "devices")
    shown = len(headings) if with_devices else len(headings) - 1
    return table_of(headings[:shown], [row[:shown] for row in rows])


def _rows(name: str, element: ElementStats) -> Iterator[tuple[Text | str, int | None, Text, int | None]]:
    """Give the lines of one element."""
    yield Text(name, style="bold"), element.arrived, Text(), None

    def part(label: str, users: int | None, devices: int | None = None) -> tuple[str, int | None, Text, int | None]:
        share = f"{users / element.arrived:.0%}" if users is not None and element.arrived else ""
        return f"  {label}", users, Text(share, style="dim"), devices

    for outcome in sorted({*element.users, *element.devices}):
        yield part(outcome, element.users.get(outcome), element.devices.get(outcome))
    for branch, users in element.branches.items():
        if branch != "next":  # everybody who goes on takes it: it would repeat a number
            yield part(f"-> {BRANCH_LABELS.get(branch, branch)}", users)
    if element.inside:
        yield part("still here", element.inside)
    for reason, users in element.left.items():
        if users:
            yield part(f"left: {reason}", users)


def summed(numbers: Mapping[str, int], *, noun: str = "") -> str:
    """Write a sum with its parts: `338 (entered-before 338)`."""
    total = f"{sum(numbers.values()):,}" + (f" {noun}" if noun else "")
    parts = ", ".join(f"{what} {number:,}" for what, number in numbers.items())
    return f"{total} ({parts})" if parts else total
