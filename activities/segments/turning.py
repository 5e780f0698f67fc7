"""When time alone puts a user into a segment, or out of it: the next instant at which a value of his comes to a bound.

An answer about one user depends on his own rows and on the clock. While his rows stay the same, it can change only when
an instant that he has comes to the edge of a window, or when a calendar day begins that a test counts. Those moments
are few, and nothing between them needs a look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from activities.segments.clock import DAY, Clock, next_round
from activities.segments.compiler import Built, Compiler, Resolver, Snapshot
from activities.segments.plans import narrowed
from activities.tables.schema import kind_of
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeTest,
    Condition,
    DeviceTest,
    EventTest,
    Not,
    PropertyTest,
    SegmentRef,
)
from workflows.operators import RELATIVE_OPERATORS, HowMany, Operators
from workflows.scalars import duration

TICK = timedelta(milliseconds=1)
"""How long after the last instant of a window it is looked at from outside: as exact as Temporal's timers are."""
MOST_MOMENTS = 50
"""Most moments at which an answer is worked out beforehand; behind them it is looked at anew."""


@dataclass(frozen=True)
class OneUser:
    """One user's own rows.

    Attributes:
        users: His row of `users`, or none.
        devices: His devices.
        events: His events.
    """

    users: pl.DataFrame
    devices: pl.DataFrame
    events: pl.DataFrame

    def is_in(self, condition: Condition, clock: Clock, resolve: Resolver) -> bool:
        """Tell whether he is in a segment at an instant.

        Raises:
            DefinitionError: The condition does not fit the tables.
            NotFoundError: A reference leads nowhere.
        """
        own = Snapshot(self.users.lazy(), self.devices.lazy(), self.events.lazy())
        return not narrowed(own.users, Compiler(own, clock, resolve).plan(condition)).collect().is_empty()

    def next_turn(self, condition: Condition, clock: Clock, resolve: Resolver, until: datetime) -> datetime | None:
        """Tell when time alone changes the answer next.

        Args:
            condition: The segment's condition.
            clock: Now, and the zone of calendar days. A nested segment keeps its own.
            resolve: Answers what references to segments and files stand for.
            until: How far to look ahead, UTC.

        Returns:
            The first instant after now at which the answer is another one, exact to a thousandth of a second; or an
            earlier one where there are too many moments to look at; None where it stays as it is.

        Raises:
            DefinitionError: The condition does not fit the tables.
            NotFoundError: A reference leads nowhere.
        """
        found = set(self._moments(condition, clock, resolve, self.users, until))
        moments = sorted(moment for moment in found if clock.as_of < moment <= until)
        if not moments:
            return None
        now = self.is_in(condition, clock, resolve)
        for moment in moments[:MOST_MOMENTS]:
            if self.is_in(condition, Clock(moment, clock.zone), resolve) != now:
                return moment
        return moments[MOST_MOMENTS] if len(moments) > MOST_MOMENTS else None

    def _moments(
        self, node: Condition, clock: Clock, resolve: Resolver, rows: pl.DataFrame, until: datetime
    ) -> Iterator[datetime]:
        """Give the moments at which one of the condition's leaves may change, or some of the time before."""
        match node:
            case All() | Any_() | Not():
                for child in _parts(node):
                    yield from self._moments(child, clock, resolve, rows, until)
            case SegmentRef():
                meant = resolve.segment(node)
                if isinstance(meant, Built):
                    own = Clock(clock.as_of, meant.zone)
                    yield from self._moments(meant.condition, own, resolve, self.users, until)
            case AnyDevice(any_device=child):
                yield from self._moments(child, clock, resolve, self.devices, until)
            case DeviceTest(device=name):
                yield from _crossings(node, self.devices, name, clock, until)
            case AttributeTest(attribute=name) | PropertyTest(property=name):
                yield from _crossings(node, rows, name, clock, until)
            case EventTest(event=name):
                events = self.events.filter(pl.col("event") == name)
                yield from _crossings(node, events, "at", clock, until)
                if node.where is not None:
                    yield from self._moments(node.where, clock, resolve, events, until)


def _parts(node: All | Any_ | Not) -> tuple[Condition, ...]:
    match node:
        case All():
            return node.all
        case Any_():
            return node.any
        case Not():
            return (node.not_,)


def _crossings(test: Operators, rows: pl.DataFrame, column: str, clock: Clock, until: datetime) -> Iterator[datetime]:
    """Give the moments at which a test of a column may change for one of the rows."""
    asked = {word: value for word, value in test.operators.items() if word in RELATIVE_OPERATORS}
    if not asked or column not in rows.columns or kind_of(rows.schema[column]) not in {"date", "instant"}:
        return
    for found in rows.get_column(column).drop_nulls().unique().to_list():
        for word, value in asked.items():
            if isinstance(found, datetime) and not isinstance(value, HowMany):
                yield from _edges(word, duration(value), found)
                continue
            day = found.astimezone(ZoneInfo(clock.zone)).date() if isinstance(found, datetime) else found
            for number in _days(word, value, day, clock.today):
                # Only days that come while it matters: no other needs to be one that the calendar can name.
                if 0 < number - clock.today.toordinal() <= (until - clock.as_of) // DAY + 2:
                    yield clock.start_of(date.fromordinal(number))


def _edges(word: str, lasting: timedelta, moment: datetime) -> Iterator[datetime]:
    """Give the instants at which a window around now reaches a moment, and leaves it."""
    try:
        if word == "within_next":
            yield moment - lasting
            yield moment + TICK
        else:
            if word == "within_last":
                yield moment
            yield moment + lasting + TICK
    except OverflowError:
        return  # beyond the calendar: it never comes


def _days(word: str, value: str | HowMany, day: date, today: date) -> Iterator[int]:
    """Give the days, counted as the calendar does, with whose beginning a test of a day may change."""
    if not isinstance(value, HowMany):
        number, days = day.toordinal(), duration(value).days
        first, last = (number - days, number) if word == "within_next" else (number, number + days)
        yield from (first, last + 1)
        return
    least, most = value.limits
    if word == "anniversary":
        comes = next_round(day.month, day.day, today)
        for moment in (comes, next_round(day.month, day.day, comes + DAY)):
            yield from (moment.toordinal() - least + 1, moment.toordinal() + 1)
            if most is not None:
                yield moment.toordinal() - most
        return
    number = day.toordinal()
    for limit in (least, most):
        if limit is not None:
            edge = number - limit if word == "days_ahead" else number + limit
            yield from (edge, edge + 1)
