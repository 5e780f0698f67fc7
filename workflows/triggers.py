"""What sets something off: an event with conditions on its properties, and when audiences come in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, model_validator

from workflows.conditions import Condition
from workflows.messages import Document
from workflows.scalars import Duration, Text, Zone, duration, refusal

ElementId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
"""The id of an entry or element: lower-case letters, digits, hyphens, underscores. Both share one space."""

Weekday: TypeAlias = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

SHORTEST_PERIOD = "1m"
"""Shortest time between two evaluations of a recurring audience."""

LAST_YEAR = 2100
"""Last year that the calendars of Temporal's Schedules know (`maxCalendarYear` in the server's scheduler)."""

_LOCAL_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?", re.ASCII)


def _local_time(text: str) -> str:
    if not _LOCAL_TIME.fullmatch(text):
        raise refusal("time", f"{text!r} is no time of day: write `09:30`, from `00:00` to `23:59`")
    return text


def _calendar_day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise refusal("day", f"{text!r} is no calendar day: write `2027-03-31`") from None
    return text


LocalTime: TypeAlias = Annotated[
    Text,
    AfterValidator(_local_time),
    WithJsonSchema({"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$"}, mode="validation"),
]
"""A time of day on the clock: `09:30`, `22:00`."""

CalendarDay: TypeAlias = Annotated[
    Text, AfterValidator(_calendar_day), WithJsonSchema({"type": "string", "format": "date"}, mode="validation")
]
"""A calendar day: `2027-03-31`."""

UserOrZone: TypeAlias = Literal["user"] | Zone
"""`user`: the user's own zone, else the journey's; or one zone for all."""


class Trigger(Document):
    """An event, and what has to be true of it."""

    event: Annotated[str, Field(min_length=1)]
    """The event's name. `push_opened` comes with the properties `push_id`, `journey` and `element`."""
    where: Condition | None = None
    """A condition over the event's properties. `{entry: X}` is a value of the event by which the user entered."""


class Schedule(Document):
    """When an audience is evaluated, anew each time, and its users enter."""

    every: Duration | None = None
    """How often, from a minute up: `15m`, `1d`, `2w`. From a day up, `time` says when."""
    weekdays: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = None
    """Only on these, with `every` of whole weeks."""
    dates: Annotated[tuple[CalendarDay, ...], Field(min_length=1)] | None = None
    """On these days, in place of `every`."""
    time: LocalTime | None = None
    """The time of day."""
    timezone: UserOrZone = "user"
    """Whose clock `time` is read on."""
    if_passed: Literal["now", "next_day", "skip"] = "now"
    """What happens to a user for whom that time of the day has passed already when the audience is evaluated."""

    @model_validator(mode="after")
    def _one_rhythm(self) -> Schedule:
        if (self.every is None) == (self.dates is None):
            raise refusal("schedule", "a schedule has either `every: 1d` or `dates: [2027-03-31]`")
        if self.every is not None and duration(self.every) < duration(SHORTEST_PERIOD):
            raise refusal("schedule", f"`every: {self.every}` is too often: the shortest is `{SHORTEST_PERIOD}`")
        daily = self.every is None or duration(self.every) % duration("1d") == duration("0s")
        if daily and self.time is None:
            raise refusal("schedule", "`time` is missing: at what time of those days, such as `time: 10:00`")
        if not daily and (self.time is not None or self.weekdays is not None):
            raise refusal("schedule", f"`every: {self.every}` is no whole days: `time` and `weekdays` have no meaning")
        if self.weekdays is not None and (
            self.every is None or duration(self.every) % duration("1w") != duration("0s")
        ):
            raise refusal("schedule", "`weekdays` go with `every` of whole weeks, such as `every: 1w`")
        if self.dates and max(self.dates) > f"{LAST_YEAR}-12-31":
            raise refusal(
                "schedule", f"{max(self.dates)!r} is too far: {LAST_YEAR} is the last year that Temporal knows"
            )
        return self


class AudienceEntry(Document):
    """Admits the users of a segment: when the journey starts, or by a schedule."""

    kind: Literal["audience-entry"]
    audience: Condition
    """The users who enter: an existing segment, a condition built in place, or an imported file."""
    schedule: Schedule | None = None
    """When; left out: once, at the start. Each time the audience is evaluated anew."""
    next: ElementId
    """The element where users arrive first."""


class TriggerEntry(Document):
    """Admits each user who does something, while the journey runs."""

    kind: Literal["trigger-entry"]
    trigger: Trigger
    """The event. Its properties are the entry's values, for templates and `{entry: X}`."""
    next: ElementId
    """The element where users arrive first."""


class ApiEntry(Document):
    """Admits the users whom a client names by the update `enter`, while the journey runs."""

    kind: Literal["api-entry"]
    next: ElementId
    """The element where users arrive first."""


Entry: TypeAlias = Annotated[AudienceEntry | TriggerEntry | ApiEntry, Field(discriminator="kind")]
"""A way into a journey. Several are combined by "or"."""


def triggers_of(part: Any) -> Iterator[tuple[tuple[str | int, ...], Trigger]]:
    """List the triggers that an entry or a branch of a wait holds, each with its place in it.

    Args:
        part: An entry, or a branch with `trigger`, `any` or `all`.

    Yields:
        Place and trigger.
    """
    if (one := getattr(part, "trigger", None)) is not None:
        yield ("trigger",), one
    for word in ("any", "all"):
        for place, one in enumerate(getattr(part, word, None) or ()):
            yield (word, place), one
