"""Pushes in a plan: whom they reach, by the code that sends them; on which devices, and in which minute."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import polars as pl

from activities.elements.split_test import place_of
from activities.planning.elements import changed_before, parted, undecided
from activities.planning.flow import Flow, Passed
from activities.planning.plan import Minute, PlannedPushes
from activities.planning.reading import INSTANT, Reading
from activities.planning.timing import out_of_silence, spread
from activities.push.claims import Cap
from activities.push.composing import ACCEPTED, NO_REACHABLE_DEVICE, compose
from activities.push.delivery import CAPPED, CONTROL_GROUP, SILENT_HOURS, DeliveryRules, caps_of, counts_for_caps
from activities.push.messages import message_texts, names_used, needs_values
from workflows.conditions import duration
from workflows.documents import Push

DEVICES = {"user_id": pl.String, "provider": pl.String, "devices": pl.UInt32}
"""How many devices of each user, by provider."""


class Pushing:
    """Counts pushes.

    Args:
        reading: The snapshot.
        rules: How pushes are delivered.
    """

    def __init__(self, reading: Reading, rules: DeliveryRules) -> None:
        self._reading = reading
        self._rules = rules
        self._by_provider: Counter[str] = Counter()
        self._users = 0
        self._minutes: list[pl.DataFrame] = []
        pushes = [one for one in reading.document.elements.values() if isinstance(one, Push)]
        periods = [cap.per for push in pushes for cap in caps_of(push, rules)]
        self._sent: dict[str, list[datetime]] | None = None
        """When each user was, or would be, sent what counts for a cap; null where no cap holds."""
        if periods:
            self._sent = reading.stores.claims.capping(reading.now - max(periods))

    def push(self, name: str, push: Push, flow: Flow) -> Passed:
        """Pass the users who are certain to come through a push.

        Args:
            name: The element's id.
            push: The push.
            flow: Who comes.

        Returns:
            Whom it would reach and when, and what cannot be known.
        """
        if unknown := self._unknown(push, flow):
            if push.branches is not None:
                return undecided(flow, unknown)
            return Passed({"next": flow.users}, unknown=unknown)
        outcomes: Counter[str] = Counter()
        due, over = self._due(name, push, flow.users, outcomes)
        reached = self._reached(push, due, outcomes)
        reached = self._below_caps(push, due, reached, outcomes)
        self._count(due, reached)
        users = pl.concat([due, over])
        later = push.purpose == "marketing" and bool(due.join(flow.users, on=["user_id", "at"], how="anti").height)
        found = Counter({outcome: number for outcome, number in outcomes.items() if number})
        if push.branches is None:
            return Passed({"next": users}, found, later=later)
        ways = parted(users, reached.select("user_id"), "accepted", "not_accepted")
        return Passed(ways, found, later=later)

    def _unknown(self, push: Push, flow: Flow) -> str:
        """Say why it cannot be known whom a push reaches; empty when it can."""
        document = self._reading.document
        silence = document.silent_hours.push if document.silent_hours is not None else None
        if flow.users.is_empty():
            return ""
        spreads = push.purpose == "marketing" and document.send_window is not None
        if spreads and silence is not None and silence.then == "skip":
            return "the send window spreads users by a hash of the run, some of them into silent hours"
        read = {
            str(name[1])
            for _, texts in message_texts(push.message)
            for text in texts.values()
            for name in names_used(text or "")
            if name[0] == "user" and len(name) > 1
        }
        return changed_before(flow.changed & read) if flow.changed & read else ""

    def _due(
        self, name: str, push: Push, users: pl.DataFrame, outcomes: Counter[str]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Tell when a push is due: those whom it is for at that moment, and those who go on without it."""
        document, none = self._reading.document, users.clear()
        if push.purpose != "marketing" or users.is_empty():
            return users, none
        skipped = none
        if self._rules.control_percent:
            control = [
                place_of("control-group", user) * 100 < self._rules.control_percent
                for user in users.get_column("user_id").to_list()
            ]
            skipped, users = users.filter(pl.Series(control)), users.filter(~pl.Series(control))
            outcomes[CONTROL_GROUP] += skipped.height
        window = duration(document.send_window) if document.send_window is not None else timedelta()
        if not window and document.silent_hours is None:
            return users, skipped
        rows = spread(users, name, window).with_columns(at=pl.col("at") + pl.col("spread"))
        if document.silent_hours is None:
            return rows.select("user_id", "at"), skipped
        silence = document.silent_hours.push
        rows = out_of_silence(self._reading, silence, rows)
        if silence.then == "wait":
            return rows.select("user_id", at="ready"), skipped
        silent = rows.filter(pl.col("ready") > pl.col("at"))
        outcomes[SILENT_HOURS] += silent.height
        awake = rows.filter(pl.col("ready") == pl.col("at")).select("user_id", "at")
        return awake, pl.concat([skipped, silent.select("user_id", "at")])

    def _reached(self, push: Push, users: pl.DataFrame, outcomes: Counter[str]) -> pl.DataFrame:
        """Count a push by the code that sends it, or, where it reads the same for all, by polars."""
        if needs_values(push.message) or push.devices is not None or push.send_to != "all":
            rows: list[tuple[str, str, int]] = []
            for user, _, profile in self._reading.profiles(push, users):
                composed = compose(push, self._reading.document, profile)
                if composed.outcome != ACCEPTED:
                    outcomes[composed.outcome] += 1
                counted = Counter(str(device["provider"]) for device, _ in composed.messages)
                rows += [(user, provider, number) for provider, number in counted.items()]
            return pl.DataFrame(rows, schema=DEVICES, orient="row")
        stores = self._reading.stores
        snapshot = stores.segments.snapshot(self._reading.versions)
        devices = stores.profiles.reachable(snapshot.devices)
        # A phone that was registered twice gets a push once.
        addresses = pl.len()
        if "token" in devices.collect_schema().names():
            addresses = pl.col("token").drop_nulls().n_unique() + pl.col("token").null_count()
        found = stores.tables.collect(
            devices.join(users.lazy(), on="user_id", how="semi").group_by("user_id", "provider").agg(devices=addresses)
        )
        outcomes[NO_REACHABLE_DEVICE] += users.height - found.get_column("user_id").n_unique()
        return found.cast(DEVICES)  # type: ignore[arg-type]

    def _below_caps(self, push: Push, due: pl.DataFrame, reached: pl.DataFrame, outcomes: Counter[str]) -> pl.DataFrame:
        """Leave out the users whom a frequency cap holds back, and remember when the others were sent to."""
        if self._sent is not None and counts_for_caps(push):
            caps, capped = caps_of(push, self._rules), list[str]()
            for user, at in due.join(reached, on="user_id", how="semi").iter_rows():
                if _is_capped(self._sent.get(user, []), at, caps):
                    capped.append(user)
                else:
                    self._sent.setdefault(user, []).append(at)
            outcomes[CAPPED] += len(capped)
            reached = reached.filter(~pl.col("user_id").is_in(capped))
        outcomes[ACCEPTED] += reached.get_column("user_id").n_unique()
        return reached

    def _count(self, due: pl.DataFrame, reached: pl.DataFrame) -> None:
        self._users += reached.get_column("user_id").n_unique()
        for provider, devices in reached.group_by("provider").agg(pl.col("devices").sum()).iter_rows():
            self._by_provider[provider] += devices
        minutes = reached.join(due, on="user_id").select(pl.col("at").dt.truncate("1m"), "devices")
        self._minutes.append(minutes.group_by("at").agg(pl.col("devices").sum()))

    @property
    def total(self) -> PlannedPushes:
        """All pushes so far."""
        return PlannedPushes(
            users=self._users, devices=self._by_provider.total(), by_provider=dict(sorted(self._by_provider.items()))
        )

    @property
    def forecast(self) -> list[Minute]:
        """All pushes so far, by the minute."""
        empty = pl.DataFrame(schema={"at": INSTANT, "devices": pl.UInt32})
        rows = pl.concat([empty, *self._minutes]).group_by("at").agg(pl.col("devices").sum()).sort("at")
        return [Minute(at=at, pushes=devices) for at, devices in rows.iter_rows()]


def _is_capped(sent: list[datetime], at: datetime, caps: list[Cap]) -> bool:
    return any(sum(moment > at - cap.per for moment in sent) >= cap.at_most for cap in caps)
