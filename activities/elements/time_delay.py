"""The time delay activity: until when a user is held, on his own clock."""

from __future__ import annotations

from datetime import date, datetime

from temporalio import activity

from activities.elements.passing import Answer, Case, Out, Passing, Stay
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.segments.facts import words_of
from workflows.calendar import at_local, local_time, next_time, read_moment, shifted_day
from workflows.contracts import Outcome, Visit
from workflows.documents import TimeDelay
from workflows.scalars import duration

UNREADABLE_DATE = "unreadable-date"


class TimeDelayActivities:
    """Holds users.

    Args:
        passing: Decides whether an element may go ahead.
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    @activity.defn(name="time-delay")
    @as_failures
    @beating
    async def time_delay(self, visit: Visit) -> Outcome:
        """Say until when the user is held; asked again then, let him go on.

        Args:
            visit: Whose visit to which element. Its `until` is what was said before.

        Returns:
            The instant; or the branch, when it has come.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version is unknown,
                which it does not.
        """
        return await self._passing.pass_by(visit, TimeDelay, self._delay)

    async def _delay(self, case: Case[TimeDelay]) -> Answer | Stay | Out:
        visit = case.visit
        due = visit.until
        if due is None:
            found = await self._due(case)
            if isinstance(found, Out):
                return found
            due = found
        if due > visit.now:
            return Stay(due)
        return Answer("next", f"held until {due:%Y-%m-%d %H:%M:%S} UTC")

    async def _due(self, case: Case[TimeDelay]) -> datetime | Out:
        """Work out the moment that the element means for this user."""
        element = case.element
        zone = case.zone
        if element.timezone != "user":
            zone = element.timezone
        elif element.duration is None:
            zone = await case.zone_of_user()
        value = (await case.facts()).value(element.until) if element.until is not None else None
        due = due_moment(element, case.visit.now, zone, value)
        if due is None and element.until is not None:
            said = "is missing" if value is None else f"is {value!r}, which is no date"
            return Out(UNREADABLE_DATE, f"{words_of(element.until)} {said}")
        return due or case.visit.now


def due_moment(element: TimeDelay, now: datetime, zone: str, value: object = None) -> datetime | None:
    """Work out the moment at which a delay ends.

    Args:
        element: The delay.
        now: When the user arrives, UTC.
        zone: The zone whose clock and calendar it means.
        value: What `until` stands for; null where it is missing.

    Returns:
        The moment, UTC, which may be past; null where `until` cannot be read as a date or instant.
    """
    if element.duration is not None:
        return now + duration(element.duration)
    at = local_time(element.time) if element.time is not None else None
    if element.date is not None:
        return at_local(date.fromisoformat(element.date), at or local_time("00:00"), zone)
    if element.until is None:
        return next_time(now, at or local_time("00:00"), zone, weekdays=element.weekdays or ())
    moment = read_moment(value, zone)
    return None if moment is None else shifted_day(moment, element.days or 0, at, zone)
