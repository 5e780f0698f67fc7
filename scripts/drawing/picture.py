"""What a drawing says: each box with its lines, each arrow with its branch and number. Both forms are drawn from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from activities.segments.wording import worded
from scripts.funnel import equations
from scripts.output import instant
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeTest,
    DeviceTest,
    EventTest,
    Everyone,
    FileRef,
    Not,
    PropertyTest,
    SegmentRef,
)
from workflows.contracts import ElementStats, Stats
from workflows.documents import BRANCH_LABELS, JourneyDocument, ways_out
from workflows.messages import MessageTexts

NOT_SAID = {"kind", "next", "branches"}
"""Keys that a box shows as its kind and its arrows."""


@dataclass(frozen=True)
class Box:
    """An entry or element.

    Attributes:
        name: Its id.
        kind: Its kind, as the document has it.
        title: Its kind, for people.
        text: What it does: a condition, a message's title, a duration.
        users: Who arrived; null where nothing was counted.
        entry: Whether users come in by it.
        facts: What became of users there, each with its number: outcomes, who is inside, why users left.
    """

    name: str
    kind: str
    title: str
    text: str
    users: int | None
    entry: bool
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Arrow:
    """A branch.

    Attributes:
        source: The box it leaves.
        target: The box it leads to.
        label: What people call it; empty for a single way out.
        users: Who took it; null where nothing was counted.
        share: These, of all who arrived at the source; null where nothing was counted, or nobody arrived.
    """

    source: str
    target: str
    label: str
    users: int | None
    share: float | None

    @property
    def words(self) -> str:
        """The label with the number: `Users in a segment: 3 (75%)`."""
        if self.users is None:
            return self.label
        share = f" ({self.share:.0%})" if self.label and self.share is not None else ""
        return f"{self.label}{': ' if self.label else ''}{self.users:,}{share}"


@dataclass(frozen=True)
class Picture:
    """All that a drawing says.

    Attributes:
        heading: The journey.
        lines: Sentences under the heading: the equations of the numbers.
        boxes: Entries, then elements, in document order.
        arrows: The branches of each box, in document order.
        entered: Users who entered; 0 where nothing was counted.
    """

    heading: str
    lines: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    entered: int


def picture_of(document: JourneyDocument, stats: Stats | None = None, version: int | None = None) -> Picture:
    """Say what the drawing of a journey shows.

    Args:
        document: A journey without faults.
        stats: The numbers of this version; null draws none.
        version: Its number, where it is saved.

    Returns:
        The picture. Titles and names are as their author wrote them: whoever writes it down escapes them.
    """
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for section in (document.entries, document.elements):
        for name, part in section.items():
            entry = name in document.entries
            counted = _of_entry(document, stats, name) if entry else _of_element(stats, name)
            facts = tuple(_facts(counted)) if counted is not None else ()
            users = counted.arrived if counted is not None else None
            boxes.append(Box(name, part.kind, _title(part.kind), said_of(part), users, entry, facts))
            for branch, target in ways_out(part).items():
                taken = counted.branches.get(branch, 0) if counted is not None else None
                share = taken / users if taken is not None and users else None
                label = "" if branch == "next" else BRANCH_LABELS.get(branch, branch)
                arrows.append(Arrow(name, target, label, taken, share))
    heading = (document.title or document.journey) + (f" · {document.journey}" if document.title else "")
    return Picture(
        heading=heading + (f" v{version}" if version else ""),
        lines=(f"{stats.state}, as of {instant(stats.as_of)}", *equations(stats)) if stats is not None else (),
        boxes=tuple(boxes),
        arrows=tuple(arrows),
        entered=stats.entered if stats is not None else 0,
    )


def said_of(part: BaseModel) -> str:
    """Say in one line what an entry or element does, from the keys that its author set; works for any kind."""
    return "; ".join(filter(None, (_said(name, value) for name, value in _set_of(part) if name not in NOT_SAID)))


def _set_of(part: BaseModel) -> list[tuple[str, Any]]:
    return [(name, getattr(part, name)) for name in type(part).model_fields if name in part.model_fields_set]


def _said(name: str, value: Any) -> str:
    label = name.rstrip("_").replace("_", " ")
    match value:
        case None:
            return ""
        case MessageTexts():
            return f"“{value.title}”"
        case (
            All()
            | Any_()
            | Not()
            | Everyone()
            | AttributeTest()
            | DeviceTest()
            | AnyDevice()
            | PropertyTest()
            | EventTest()
            | SegmentRef()
            | FileRef()
        ):
            return worded(value) if name in ("audience", "match", "trigger") else f"{label} {worded(value)}"
        case BaseModel():
            return f"{label} {', '.join(filter(None, (_said(*one) for one in _set_of(value))))}"
        case dict():
            return f"{label} {', '.join(f'{key} {_plain(one)}' for key, one in value.items())}"
        case list() | tuple():
            return f"{label} {', '.join(map(_plain, value))}"
    return f"{label} {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        return " ".join(_said(*one) for one in _set_of(value))
    return str(value)


def _title(kind: str) -> str:
    return kind.replace("-", " ").capitalize()


def _of_element(stats: Stats | None, name: str) -> ElementStats | None:
    return stats.elements.get(name, ElementStats()) if stats is not None else None


def _of_entry(document: JourneyDocument, stats: Stats | None, name: str) -> ElementStats | None:
    """Give an entry the numbers of an element: who entered goes on; refusals are of the journey, not of one entry."""
    if stats is None:
        return None
    entered = stats.entries.get(name, 0)
    refused = stats.refused if len(document.entries) == 1 else {}
    return ElementStats(
        arrived=entered + sum(refused.values()),
        branches={"next": entered},
        left={f"refused: {reason}": users for reason, users in refused.items()},
    )


def _facts(counted: ElementStats) -> Iterator[tuple[str, str]]:
    """Yield what became of users at an element, with the number."""
    for outcome in sorted({*counted.users, *counted.devices}):
        users, devices = counted.users.get(outcome), counted.devices.get(outcome)
        on = f"{devices:,} device{'' if devices == 1 else 's'}" if devices is not None else ""
        yield outcome, on if users is None else f"{users:,} on {on}" if on else f"{users:,}"
    if counted.inside:
        yield "still here", f"{counted.inside:,}"
    for reason, users in counted.left.items():
        if users:
            yield reason if reason.startswith("refused: ") else f"left: {reason}", f"{users:,}"
