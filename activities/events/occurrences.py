"""One event: how it is named, what it may say, how the table holds it, and whether a trigger means it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from activities.records.rows import instant
from activities.segments.facts import ENTRY, USER, Facts
from activities.segments.predicates import event_predicate
from activities.tables.delta import COLUMNS
from activities.tables.headers import unusable
from activities.tables.imports import EVENT_ID_CHARACTERS, ID_LIMIT
from activities.tables.inference import read_as
from activities.tables.properties import as_cell, typed_row
from activities.tables.schema import DTYPES, FIRST_INSTANT, LAST_INSTANT, Kind, kind_of
from workflows.conditions import Condition, compares_with
from workflows.contracts import EventGiven
from workflows.errors import DefinitionError, RefusedError
from workflows.operators import AttributeRef

PUSH_OPENED = "push_opened"
"""The event of a push that was opened."""

PROPERTIES_LIMIT = 64_000
"""Longest JSON of an event's properties, in bytes."""
WHOLE_DIGITS = 15
"""Longest whole number that a column of numbers holds exactly; a longer one is a text, as in imports."""


@dataclass(frozen=True)
class Occurrence:
    """An event that was taken.

    Attributes:
        event_id: Names it.
        user_id: Who did it.
        event: The event's name.
        at: When it happened, UTC.
        taken_at: When it was taken, UTC.
        properties: Its values, as JSON data.
    """

    event_id: str
    user_id: str
    event: str
    at: datetime
    taken_at: datetime
    properties: Mapping[str, Any]


def occurrence(given: EventGiven, taken_at: datetime) -> Occurrence:
    """Read what a client gave.

    Args:
        given: The event.
        taken_at: The instant, UTC: also when it happened, where that is not said.

    Returns:
        The event; without an id of its own, it is named by all that it says.

    Raises:
        RefusedError: It cannot be taken as it is.
    """
    for name, value in (("user_id", given.user_id), ("event", given.event)):
        if not value.strip():
            raise RefusedError(f"the event has no {name}: say who did what", code="wrong-event")
    for name, value in (("user_id", given.user_id), ("event", given.event), ("event_id", given.event_id)):
        if len(value) > ID_LIMIT or "\0" in value:
            raise RefusedError(
                f"the {name} {value[:40]!r} is longer than {ID_LIMIT} characters, or holds a zero byte",
                code="wrong-event",
            )
    values = {name: value for name, value in given.properties.items() if value is not None}
    for name, value in values.items():
        _require_property(name, value)
    at = given.at or taken_at
    if at.tzinfo is None:
        raise RefusedError(
            f"the instant {at.isoformat()} has no zone: write it as 2027-03-31T10:00:00Z", code="no-zone"
        )
    if not FIRST_INSTANT <= at <= LAST_INSTANT:
        raise RefusedError(
            f"the instant {at.isoformat()} lies outside the calendar of every zone: say when it happened",
            code="wrong-event",
        )
    said = [given.user_id, given.event, instant(at), values]
    try:
        text = json.dumps(said, sort_keys=True, ensure_ascii=False, allow_nan=False)
        if len(text.encode()) > PROPERTIES_LIMIT:
            raise ValueError(f"they are over {PROPERTIES_LIMIT:,} bytes")
    except ValueError as error:
        raise RefusedError(f"the properties of {given.event!r} cannot be kept: {error}", code="wrong-event") from None
    name = given.event_id or hashlib.sha256(text.encode()).hexdigest()[:EVENT_ID_CHARACTERS]
    return Occurrence(name, given.user_id, given.event, at, taken_at, values)


def _require_property(name: str, value: Any) -> None:
    """Refuse a property that no table can hold."""
    if not name.strip() or len(name) > ID_LIMIT:
        raise RefusedError(f"{name[:40]!r} is no name of a property", code="wrong-event")
    if wrong := unusable(name):
        raise RefusedError(wrong, code="wrong-event", hint="call the property otherwise")
    if name.lower() in COLUMNS["events"]:
        raise RefusedError(
            f"a property cannot be called {name!r}: events have that column already",
            code="wrong-event",
            hint="give it beside the properties, or call the property otherwise",
        )
    items = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(item, str | int | float) for item in items):
        raise RefusedError(
            f"the property {name!r} is {str(value)[:40]!r}: a property is a text, a number, a boolean or a list of "
            "texts",
            code="wrong-event",
        )
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise RefusedError(f"the property {name!r} holds a zero byte, which no database keeps", code="wrong-event")


def as_rows(events: Sequence[Occurrence], kinds: Mapping[str, Kind]) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """Type events as rows of the table.

    Args:
        events: The events.
        kinds: The columns that the table has.

    Returns:
        One row each, in order, in the dtypes of `DTYPES`; and by event id what could not be kept: a value that does
        not read as its column's kind is null there.
    """
    lost: dict[str, list[str]] = {}
    spelled = {name.lower(): name for name in kinds}
    columns = [
        pl.Series("event_id", [one.event_id for one in events], dtype=pl.String),
        pl.Series("user_id", [one.user_id for one in events], dtype=pl.String),
        pl.Series("event", [one.event for one in events], dtype=pl.String),
        pl.Series("at", [one.at for one in events], dtype=DTYPES["instant"]),
    ]
    for name in dict.fromkeys(name for one in events for name in one.properties):
        values = [one.properties.get(name) for one in events]
        if spelled.setdefault(name.lower(), name) != name:
            # Delta tells columns apart without regard to case.
            for one in events:
                if name in one.properties:
                    lost.setdefault(one.event_id, []).append(
                        f"the property {name!r} was left out: it differs only in case from {spelled[name.lower()]!r}"
                    )
            continue
        kind = kinds.get(name) or _kind_of_values(name, values)
        cells = pl.Series(name, [as_cell(value) for value in values], dtype=pl.String)
        column = read_as(cells, kind)
        columns.append(column)
        for place in (cells.is_not_null() & column.is_null()).arg_true():
            one = events[place]
            if str(values[place]).strip():
                lost.setdefault(one.event_id, []).append(
                    f"the property {name!r} is {values[place]!r}, which does not read as {kind}: the table has no value"
                )
    return pl.DataFrame(columns), lost


def _kind_of_values(name: str, values: Sequence[Any]) -> Kind:
    """Give a new column its kind: that of its first value. A whole number may be followed by one with decimals."""
    first = next(value for value in values if value is not None)
    if isinstance(first, int) and not isinstance(first, bool):
        return "number" if len(str(abs(first))) <= WHOLE_DIGITS else "string"
    return kind_of(typed_row({name: first}, {}).schema[name])


class Judge(Protocol):
    """Tells whether a trigger's condition is true of an event, for whoever did it."""

    def __call__(
        self, where: Condition | None, event: Occurrence, *, entry: Mapping[str, Any], zone: str | None
    ) -> bool:
        """Judge one event, with the values of the entry event and the journey's zone."""
        ...


def is_meant(
    where: Condition | None,
    event: Occurrence,
    *,
    entry: Mapping[str, Any],
    user: Callable[[], Mapping[str, Any]],
    kinds: Mapping[str, Mapping[str, Kind]],
    zone: str,
) -> bool:
    """Tell whether a trigger's condition is true of an event.

    Args:
        where: The condition; None is true of every event.
        event: The event.
        entry: The values of the event by which the user entered, for `{entry: X}`.
        user: Gives the user's attributes, for `{attribute: X}`; asked only where the condition has one.
        kinds: Kinds of the columns of `users` and `events`.
        zone: The zone of calendar days.

    Returns:
        Whether it is. False where a value has not the type that the condition compares.
    """
    if where is None:
        return True
    facts = Facts(user() if compares_with(where, AttributeRef) else {}, entry, {}, kinds)
    own = typed_row(event.properties, kinds["events"])
    columns = {name: kind_of(dtype) for name, dtype in own.schema.items()}
    try:
        test = event_predicate(
            where, columns, as_of=event.at, zone=zone, entry=facts.terms(ENTRY), user=facts.terms(USER)
        )
    except DefinitionError:
        return False
    return bool(facts.row.with_columns(own.get_columns()).select(test.alias("\x1ftrue")).item())
