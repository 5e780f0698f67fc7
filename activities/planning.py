"""The plan: exactly what a journey would do to whom, worked out by polars over one snapshot, with nothing sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.push.composing import ACCEPTED, NO_REACHABLE_DEVICE, compose
from activities.push.devices import Profile
from activities.push.messages import needs_values
from activities.records.admissions import refusal_reason
from activities.segments.segments import References
from activities.stores import Stores
from workflows.conditions import Condition
from workflows.contracts import Versions
from workflows.documents import (
    ALL_OTHER_USERS,
    USERS_IN_SEGMENT,
    AudienceEntry,
    ConditionSplit,
    JourneyDocument,
    Push,
    ways_out,
)
from workflows.graph import visiting_order

USERS_AT_ONCE = 2_000
"""Users whose messages are composed at one time."""


class PlannedElement(BaseModel):
    """What would happen at one element."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    arrived: int
    branches: dict[str, int] = {}
    """Users who would take each branch."""
    users: dict[str, int] = {}
    """Users by outcome, where the element sends."""


class PlannedPushes(BaseModel):
    """What would be sent."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    users: int = 0
    """Pushes that reach a user, counted once for each push of the journey."""
    devices: int = 0
    by_provider: dict[str, int] = {}
    """Devices by provider."""


class Plan(BaseModel):
    """Exactly what starting a journey now would do."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    journey: str
    audience: int
    refused: dict[str, int] = {}
    """Users whom the re-entry rule would keep out, by reason."""
    elements: dict[str, PlannedElement] = {}
    pushes: PlannedPushes
    as_of: datetime
    tables: Versions
    """The version of each table that was read."""


class _Planner:
    """Passes the whole audience through a journey at once."""

    def __init__(
        self, stores: Stores, document: JourneyDocument, now: datetime, versions: Versions, references: References
    ) -> None:
        self._stores = stores
        self._document = document
        self._now = now
        self._versions = versions
        self._references = references
        self._zone = document.timezone or stores.segments.zone
        self._sent: Counter[str] = Counter()
        self._sent_users = 0

    def plan(self) -> Plan:
        arriving: dict[str, list[pl.DataFrame]] = {}
        audience, refused = 0, Counter[str]()
        earlier = self._stores.ledger.earlier_passages(self._document.journey)
        entered = pl.DataFrame(schema={"user_id": pl.String})
        for entry in self._document.entries.values():
            if not isinstance(entry, AudienceEntry):
                continue
            users = self._evaluate(entry.audience)
            audience += users.height
            again = users.join(entered, on="user_id", how="semi")
            refused["already-inside"] += again.height
            users = self._admit(users.join(again, on="user_id", how="anti"), earlier, refused)
            entered = pl.concat([entered, users])
            arriving.setdefault(entry.next, []).append(users)
        elements: dict[str, PlannedElement] = {}
        for name in visiting_order(self._document):
            users = pl.concat(arriving[name]) if name in arriving else entered.clear()
            leaving, outcomes = self._pass(name, users)
            for branch, target in ways_out(self._document.elements[name]).items():
                arriving.setdefault(target, []).append(leaving[branch])
            elements[name] = PlannedElement(
                arrived=users.height,
                branches={branch: frame.height for branch, frame in leaving.items()},
                users=dict(sorted(outcomes.items())),
            )
        return Plan(
            journey=self._document.journey,
            audience=audience,
            refused={reason: number for reason, number in sorted(refused.items()) if number},
            elements={name: elements[name] for name in self._document.elements},
            pushes=PlannedPushes(
                users=self._sent_users, devices=self._sent.total(), by_provider=dict(sorted(self._sent.items()))
            ),
            as_of=self._now,
            tables=self._versions,
        )

    def _evaluate(self, condition: Condition) -> pl.DataFrame:
        return self._stores.segments.evaluate(
            condition,
            self._now,
            zone=self._zone,
            versions=self._versions,
            references=self._references,
        ).users

    def _admit(
        self, users: pl.DataFrame, earlier: dict[str, list[tuple[str, str | None]]], refused: Counter[str]
    ) -> pl.DataFrame:
        """Keep the users whom the re-entry rule lets in."""
        if not earlier:
            return users
        kept: list[str] = []
        for user in users.get_column("user_id").to_list():
            reason = refusal_reason(self._document.reentry, earlier.get(user, []), self._now)
            if reason:
                refused[reason] += 1
            else:
                kept.append(user)
        return pl.DataFrame({"user_id": kept}, schema={"user_id": pl.String})

    def _pass(self, name: str, users: pl.DataFrame) -> tuple[dict[str, pl.DataFrame], Counter[str]]:
        """Pass users through one element.

        Returns:
            The users who take each branch, and how many met each outcome.
        """
        match self._document.elements[name]:
            case ConditionSplit() as split:
                members = self._evaluate(split.match)
                return {
                    USERS_IN_SEGMENT: users.join(members, on="user_id", how="semi"),
                    ALL_OTHER_USERS: users.join(members, on="user_id", how="anti"),
                }, Counter()
            case Push() as push:
                accepted, outcomes = self._push(push, users)
                if push.branches is None:
                    return {"next": users}, outcomes
                return {
                    "accepted": users.join(accepted, on="user_id", how="semi"),
                    "not_accepted": users.join(accepted, on="user_id", how="anti"),
                }, outcomes
            case element:
                return {branch: users for branch in ways_out(element)}, Counter()

    def _push(self, push: Push, users: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
        """Count a push by the code that sends it, or, where it reads the same for all, by polars."""
        outcomes: Counter[str] = Counter()
        accepted: list[str] = []
        if needs_values(push.message) or push.devices is not None or push.send_to != "all":
            for user, profile in self._profiles(push, users):
                composed = compose(push, self._document, profile)
                outcomes[composed.outcome] += 1
                if composed.outcome == ACCEPTED:
                    accepted.append(user)
                    self._sent.update(str(device["provider"]) for device, _ in composed.messages)
            found = pl.DataFrame({"user_id": accepted}, schema={"user_id": pl.String})
        else:
            snapshot = self._stores.segments.snapshot(self._versions)
            devices = self._stores.tables.collect(
                self._stores.profiles.reachable(snapshot.devices)
                .join(users.lazy(), on="user_id", how="semi")
                .group_by("user_id", "provider")
                .len()
            )
            for provider, number in devices.group_by("provider").agg(pl.col("len").sum()).iter_rows():
                self._sent[provider] += number
            found = devices.select("user_id").unique()
            outcomes = Counter({ACCEPTED: found.height, NO_REACHABLE_DEVICE: users.height - found.height})
        self._sent_users += found.height
        return found, Counter({outcome: number for outcome, number in outcomes.items() if number})

    def _profiles(self, push: Push, users: pl.DataFrame) -> Iterator[tuple[str, Profile]]:
        for chunk in users.iter_slices(USERS_AT_ONCE):
            yield from self._stores.profiles.read(
                chunk.get_column("user_id").to_list(), push.devices, self._zone, self._now, self._versions
            ).items()


def plan_journey(
    stores: Stores,
    document: JourneyDocument,
    now: datetime,
    *,
    versions: Versions | None = None,
    references: References | None = None,
) -> Plan:
    """Work out who would enter, take each branch and be pushed. Blocking; sends nothing, writes nothing.

    With several audience entries, a user whom an earlier one admits is taken for still inside at the later ones.

    Args:
        stores: Tables, catalogue and ledger.
        document: A journey without faults.
        now: The instant to plan for, UTC.
        versions: The table versions to read; null for the newest.
        references: What the document's references mean; null for what is saved now.

    Returns:
        The plan.

    Raises:
        NotFoundError: A reference leads nowhere.
        StoreUnavailable: A store cannot be reached.
    """
    read = versions or stores.segments.versions()
    zone = document.timezone or stores.segments.zone
    meant = references or stores.segments.references(read, zone=zone)
    return _Planner(stores, document, now, read, meant).plan()
