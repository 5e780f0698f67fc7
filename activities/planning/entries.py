"""Entries in a plan: who comes in, when, and whom the rule of re-entry keeps out."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta

import polars as pl

from activities.planning.flow import NO_ONE, Flow
from activities.planning.plan import PlannedEntry
from activities.planning.reading import INSTANT, Reading
from activities.records.admissions import cap_reason, refusal_reason
from workflows.calendar import Recurrence, entry_moment, first_zone_instant, local_time, occurrences
from workflows.documents import ApiEntry, AudienceEntry, Entry, Schedule, TriggerEntry
from workflows.scalars import duration

TIME_PASSED = "time-passed"
LAST_ZONE = "Etc/GMT+12"
"""UTC-12, where each day comes last."""


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
        at = reading.now if schedule is None else self._next(schedule)
        if at is None:
            return PlannedEntry(audience=0, unknown="its dates are over"), Flow()
        members = reading.members(entry.audience, at)
        self.audience += members.height
        again = members.join(self.entered, on="user_id", how="semi")
        self.refused["already-inside"] += again.height
        users = self._admitted(members.join(again, on="user_id", how="anti"), at)
        rows = users.with_columns(at=pl.lit(at).cast(INSTANT))
        if schedule is not None and schedule.timezone == "user" and schedule.time is not None:
            rows = self._on_own_clock(schedule, rows)
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

    def _next(self, schedule: Schedule) -> datetime | None:
        """Give the next moment at which an audience is evaluated, UTC; on users' own clocks the first of them."""
        zone = schedule.timezone if schedule.timezone != "user" else self._reading.zone
        at = local_time(schedule.time) if schedule.time is not None else None
        if schedule.timezone == "user" and at is not None:
            last = next(iter(occurrences(_rule(schedule), self._reading.now, LAST_ZONE)), None)
            if last is None:
                return None
            day = (last - timedelta(hours=12)).date()
            return max(self._reading.now, first_zone_instant(day, at))
        return next(iter(occurrences(_rule(schedule), self._reading.now, zone)), None)

    def _on_own_clock(self, schedule: Schedule, users: pl.DataFrame) -> pl.DataFrame:
        """Let each user come in when his own clock shows the time."""
        assert schedule.time is not None  # noqa: S101 - asked before
        at = local_time(schedule.time)
        last = next(iter(occurrences(_rule(schedule), self._reading.now, LAST_ZONE)))
        day = (last - timedelta(hours=12)).date()
        rows = self._reading.zones(users)
        cases = rows.select("at", "zone").unique()
        moments = [entry_moment(day, at, zone, now, schedule.if_passed) for now, zone in cases.iter_rows()]
        found = rows.join(cases.with_columns(enters=pl.Series(moments, dtype=INSTANT)), on=["at", "zone"], how="left")
        self.refused[TIME_PASSED] += found.get_column("enters").null_count()
        return found.drop_nulls("enters").select("user_id", at="enters")


def _rule(schedule: Schedule) -> Recurrence:
    return Recurrence(
        every=duration(schedule.every) if schedule.every is not None else None,
        weekdays=tuple(schedule.weekdays or ()),
        dates=tuple(date.fromisoformat(day) for day in schedule.dates or ()),
        at=local_time(schedule.time) if schedule.time is not None else None,
    )
