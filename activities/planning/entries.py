"""Entries in a plan: who comes in, when, and whom the rule of re-entry keeps out."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime

import polars as pl

from activities.enrolment import TIME_PASSED
from activities.planning.flow import NO_ONE, Flow
from activities.planning.plan import PlannedEntry
from activities.planning.reading import INSTANT, Reading
from activities.records.admissions import cap_reason, refusal_reason
from activities.scheduling import counted_from, evaluated_as_of, makes_up, recurrence_of
from workflows.calendar import entry_moment, local_time
from workflows.documents import ApiEntry, AudienceEntry, Entry, Schedule, TriggerEntry
from workflows.recurrence import due_day, occurrences


class Entering:
    """Admits users, entry after entry.

    Args:
        reading: The snapshot.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._earlier = reading.stores.ledger.earlier_passages(reading.document.journey)
        self.entered = NO_ONE
        self.audience = 0
        self.refused: Counter[str] = Counter()

    def enter(self, entry: Entry) -> tuple[PlannedEntry, Flow]:
        """Admit the users of one entry.

        Args:
            entry: The entry.

        Returns:
            What is known of it, and the users who come in. With several audiences, a user whom an earlier one admits
            is taken for still inside at the later ones.
        """
        match entry:
            case TriggerEntry(trigger=trigger):
                why = f"users enter by the event {trigger.event!r}: nobody can tell how many"
                return PlannedEntry(unknown=why), Flow(unbounded=True, why=why)
            case ApiEntry():
                why = "users enter as a client names them: nobody can tell how many"
                return PlannedEntry(unknown=why), Flow(unbounded=True, why=why)
        return self._audience(entry)

    def _audience(self, entry: AudienceEntry) -> tuple[PlannedEntry, Flow]:
        reading, schedule = self._reading, entry.schedule
        at, as_of, day = reading.now, reading.now, None
        if schedule is not None:
            found = self._next(schedule)
            if found is None:
                return PlannedEntry(audience=0, unknown="its dates are over"), Flow()
            at, day = found
            as_of = at if day is None else evaluated_as_of(schedule, day, reading.zone, at)
        members = reading.members(entry.audience, as_of)
        if schedule is not None and reading.document.reentry == "never":
            members = members.filter(~pl.col("user_id").is_in(list(self._earlier)))
        self.audience += members.height
        again = members.join(self.entered, on="user_id", how="semi")
        self.refused["already-inside"] += again.height
        users = self._admitted(members.join(again, on="user_id", how="anti"), at)
        rows = users.with_columns(at=pl.lit(at).cast(INSTANT))
        if schedule is not None and day is not None:
            rows = self._on_own_clock(schedule, day, rows)
        self.entered = pl.concat([self.entered, rows.select("user_id")])
        later = bool(at > reading.now or rows.filter(pl.col("at") > at).height)
        unknown = None
        if schedule is not None:
            unknown = "later times are not counted: the audience is evaluated anew each time"
        planned = PlannedEntry(audience=members.height, at=at if at > reading.now else None, unknown=unknown)
        return planned, Flow(users=rows, later=later)

    def _admitted(self, users: pl.DataFrame, at: datetime) -> pl.DataFrame:
        """Keep the users whom the re-entry rule and the cap on entries let in."""
        if not self._earlier:
            return users
        document = self._reading.document
        kept: list[str] = []
        for user in users.get_column("user_id").to_list():
            passed = self._earlier.get(user, [])
            reason = refusal_reason(document.reentry, passed, at) or cap_reason(
                document.entry_cap, [entered for entered, _ in passed], at
            )
            if reason:
                self.refused[reason] += 1
            else:
                kept.append(user)
        return pl.DataFrame({"user_id": kept}, schema={"user_id": pl.String})

    def _next(self, schedule: Schedule) -> tuple[datetime, date | None] | None:
        """Give when an audience is evaluated first, UTC, and the day of its occurrence; null when no date is left."""
        rule, now = recurrence_of(schedule), self._reading.now
        start, zone = counted_from(schedule, now, self._reading.zone)
        for moment in occurrences(rule, start, zone):
            if moment >= now or makes_up(schedule):
                return max(moment, now), None if rule.interval else due_day(rule, start, zone, moment)
        return None

    def _on_own_clock(self, schedule: Schedule, day: date, users: pl.DataFrame) -> pl.DataFrame:
        """Let each user come in when his own clock, or the schedule's, shows the time."""
        at = local_time(schedule.time or "00:00")
        zoned = schedule.timezone == "user"
        rows = self._reading.zones(users) if zoned else users.with_columns(zone=pl.lit(schedule.timezone))
        cases = rows.select("at", "zone").unique()
        moments = [entry_moment(day, at, zone, now, schedule.if_passed) for now, zone in cases.iter_rows()]
        found = rows.join(cases.with_columns(enters=pl.Series(moments, dtype=INSTANT)), on=["at", "zone"], how="left")
        self.refused[TIME_PASSED] += found.get_column("enters").null_count()
        return found.drop_nulls("enters").select("user_id", at="enters")
