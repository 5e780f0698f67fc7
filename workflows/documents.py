"""The documents that people write: segments and journeys.

Every model is immutable and refuses what it does not know. Entries are in `workflows.triggers`, elements in
`workflows.elements`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from workflows.conditions import Condition, Duration, Zone
from workflows.elements import (
    ALL_OTHER_USERS,
    BRANCH_LABELS,
    NOT_TRIGGERED,
    USERS_IN_SEGMENT,
    ConditionSplit,
    Element,
    Exit,
    FrequencyCap,
    Push,
    ReachabilityCheck,
    SegmentBranches,
    SplitTest,
    TimeDelay,
    UpdateUser,
    ValueSplit,
    WaitBranch,
    WaitForTrigger,
    Webhook,
    ways_out,
)
from workflows.messages import Document
from workflows.scalars import refusal
from workflows.triggers import (
    ApiEntry,
    AudienceEntry,
    ElementId,
    Entry,
    LocalTime,
    Schedule,
    Trigger,
    TriggerEntry,
)

__all__ = [
    "ALL_OTHER_USERS",
    "BRANCH_LABELS",
    "NOT_TRIGGERED",
    "USERS_IN_SEGMENT",
    "ApiEntry",
    "AtMost",
    "AudienceEntry",
    "ConditionSplit",
    "Element",
    "ElementId",
    "Entry",
    "Exit",
    "FrequencyCap",
    "Goal",
    "JourneyDocument",
    "Keyed",
    "Name",
    "Push",
    "ReachabilityCheck",
    "Reentry",
    "Schedule",
    "SegmentBranches",
    "SegmentDocument",
    "Silence",
    "SilentHours",
    "SplitTest",
    "TimeDelay",
    "Trigger",
    "TriggerEntry",
    "UpdateUser",
    "ValueSplit",
    "WaitBranch",
    "WaitForTrigger",
    "Webhook",
    "definition_of",
    "digest_of",
    "ways_out",
]

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=80)]
"""A name of a journey or segment: lower-case letters, digits, hyphens."""


class SegmentDocument(Document):
    """A saved condition: the set of users for whom it is true."""

    segment: Name
    """The segment's name."""
    title: str = ""
    """What people read in lists."""
    timezone: Zone | None = None
    """Zone of calendar days; left out: the setting `JOURNEYS_TIMEZONE`, then UTC."""
    match: Condition
    """The condition."""


class AtMost(Document):
    """Re-entry up to a number of times in a period that counts from each entry."""

    at_most: Annotated[int, Field(ge=1)]
    """How many entries the period may hold."""
    per: Duration
    """The period, such as `90d`."""


class Keyed(Document):
    """One run for each key, such as an order: runs of one user with other keys stand beside it."""

    key: Annotated[str, Field(pattern=r"^entry\.[^\s.][^\s]*$")]
    """`entry.order_id`: the value of the entry event that tells runs apart. Each value enters once."""

    @property
    def name(self) -> str:
        """The name of that value."""
        return self.key.removeprefix("entry.")


Reentry: TypeAlias = Literal["never", "after_exit"] | AtMost | Keyed
"""When a user who was in the journey may enter it again."""


class Silence(Document):
    """Hours of the day in which nothing is sent, on the user's clock."""

    from_: LocalTime = Field(alias="from")
    """When they begin."""
    to: LocalTime
    """When they end; before `from`: on the next day."""
    then: Literal["wait", "skip"] = "wait"
    """Whether the push waits until they end, or is skipped and the user goes on."""

    @model_validator(mode="after")
    def _some_hours(self) -> Silence:
        if self.from_ == self.to:
            raise refusal(
                "silence", f"silent from {self.from_!r} to {self.to!r} is the whole day: nothing could be sent"
            )
        return self


class SilentHours(Document):
    """Silent hours by channel. They hold marketing back; transactional pushes go out."""

    push: Silence
    """Those of pushes."""


class Goal(Document):
    """What the journey is for: an event that counts as a conversion."""

    trigger: Trigger
    """The event."""
    within: Duration = "30d"
    """How long after a user's entry it counts, whether the user is still inside or has left."""
    end_journey: bool = False
    """`true`: the user leaves the journey with it."""


class JourneyDocument(Document):
    """A journey: entries, and a graph of elements."""

    journey: Name
    """The journey's name."""
    title: str = ""
    """What people read in lists."""
    timezone: Zone | None = None
    """The zone of users without one of their own; left out: UTC."""
    reentry: Reentry = "never"
    """Whether users may enter more than once: `never`, `after_exit`, `{at_most: 1, per: 90d}`, or
    `{key: entry.order_id}`."""
    entry_cap: AtMost | None = None
    """At most so many entries of one user in a period, beside `reentry` and whatever the key."""
    silent_hours: SilentHours | None = None
    """Hours of the day in which nothing is sent."""
    send_window: Duration | None = None
    """Spreads each marketing push over this time, by a hash of the run: `30m`."""
    goals: dict[ElementId, Goal] = Field(default_factory=dict)
    """What counts as a conversion, by name."""
    exit_when: Condition | None = None
    """Users for whom this is true leave wherever they are: at the next element, and from the middle of a wait."""
    entries: Annotated[dict[ElementId, Entry], Field(min_length=1)]
    """The ways in, by id; several are combined by "or"."""
    elements: Annotated[dict[ElementId, Element], Field(min_length=1)]
    """The boxes, by id."""


def definition_of(document: JourneyDocument | SegmentDocument) -> dict[str, Any]:
    """Give a document as JSON data, as its author wrote it.

    Args:
        document: A journey or segment.

    Returns:
        The keys that were set, with their values: reading them again gives the same document.
    """
    return document.model_dump(mode="json", by_alias=True, exclude_unset=True)


def digest_of(definition: Any) -> str:
    """Name a definition by its content.

    Args:
        definition: JSON data; the order of keys does not matter, except that of branches, which are tried in order.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of its canonical JSON.
    """
    text = json.dumps(_ordered(definition), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ordered(value: Any) -> Any:
    """Put lists of pairs in place of mappings whose order has a meaning."""
    if isinstance(value, list):
        return [_ordered(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: [[name, _ordered(way)] for name, way in one.items()]
        if key == "branches" and isinstance(one, dict)
        else _ordered(one)
        for key, one in value.items()
    }
