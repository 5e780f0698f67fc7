"""Admissions: who may enter, and who was refused. Part of the ledger.

Admission is one transaction for a page of users, decided by the re-entry rule.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Connection, Row, select

from activities.records.database import Database
from activities.records.passages import Admission, Passages, admission_of
from activities.records.pseudonyms import Pseudonyms
from activities.records.rows import instant, journeys, passages, refusals
from workflows.conditions import duration
from workflows.documents import AtMost, Keyed, Reentry
from workflows.errors import RefusedError


@dataclass(frozen=True)
class Arrival:
    """Where and when an admission is made: the same for a page of users.

    Attributes:
        enrolment: Names the admission of an audience; for a run that a client started, its passage.
        journey: The journey.
        version: Its version.
        entry: The entry taken.
        reentry: The journey's rule.
        at: The instant, UTC.
        key: The key of keyed runs.
        cap: The journey's cap on entries, whatever the key; None for none.
        enters_at: When users come in, UTC, for those for whom that is after `at`.
        refused: Why users are refused before the re-entry rule is asked.
        properties: The values of the event by which they enter.
        event_id: That event.
        while_running: Whether the journey has to run at the very moment of the admission: else it may be closed, empty,
            between the question and the answer. Where it runs in another version by then, nobody is admitted and nobody
            refused: whoever asks looks again by what the user enters.
        steady: The same, and nobody is refused either where the journey does not run.
    """

    enrolment: str
    journey: str
    version: int
    entry: str
    reentry: Reentry
    at: datetime
    key: str = ""
    cap: AtMost | None = None
    enters_at: Mapping[str, datetime] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] | None = None
    event_id: str | None = None
    while_running: bool = False
    steady: bool = False


def passage_id(enrolment: str, user_id: str, key: str = "") -> str:
    """Name a passage by its admission, so that admitting a page twice admits nobody twice."""
    return uuid5(NAMESPACE_URL, f"{enrolment}\n{user_id}\n{key}").hex


REFUSED_ID_BYTES = 1_000
"""Longest user id of a refusal that is kept as it is: PostgreSQL indexes no text of more than about 2,700 bytes."""


class Admissions(Passages):
    """Admissions and refusals in SQL, beside the passages.

    Args:
        database: Where they are kept.
        ids: Names users towards Temporal; null names them by their ids.
    """

    def __init__(self, database: Database, ids: Pseudonyms | None = None) -> None:
        super().__init__(database)
        self.ids = ids or Pseudonyms(database)

    async def admit(self, arrival: Arrival, users: list[str], passage: str = "") -> list[Admission]:
        """Admit users, each by the re-entry rule, in one transaction.

        Args:
            arrival: Where and when.
            users: Distinct user ids; a page at most.
            passage: The passage's id, for a single user; derived from the enrolment when empty.

        Returns:
            One admission for each user, in order; asking again gives the same answers. None at all where the journey
            is not as `while_running` or `steady` wants it.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """
        ids = {user: passage or passage_id(arrival.enrolment, user, arrival.key) for user in users}
        admissions = await self.database.write(lambda connection: self._admit(connection, arrival, ids), keys=users)
        meters, labels = self.database.meters, {"journey": arrival.journey}
        fresh = Counter(admission.refused for admission in admissions if not admission.known)
        for reason, number in fresh.items():
            if reason:
                meters.refused.add(number, {**labels, "reason": reason})
            else:
                meters.entered.add(number, labels)
        return admissions

    def _admit(self, connection: Connection, arrival: Arrival, ids: dict[str, str]) -> list[Admission]:
        runs_in = self._runs_in(connection, arrival.journey) if arrival.while_running or arrival.steady else 0
        elsewhere = runs_in != arrival.version
        if elsewhere and (arrival.steady or (arrival.while_running and runs_in)):
            return []
        earlier: dict[str, list[Row[Any]]] = {}
        kept = [_kept(user) for user in ids]
        for row in connection.execute(
            select(passages).where(passages.c.journey == arrival.journey, passages.c.user_id.in_(kept))
        ):
            earlier.setdefault(row.user_id, []).append(row)
        refused_before = {
            row.user_id: row.reason
            for row in connection.execute(
                select(refusals.c.user_id, refusals.c.reason).where(
                    refusals.c.enrolment == arrival.enrolment,
                    refusals.c.key == arrival.key,
                    refusals.c.user_id.in_(kept),
                )
            )
        }
        runs = not arrival.while_running or runs_in > 0
        answers: list[Admission] = []
        entering: list[dict[str, Any]] = []
        refusing: list[dict[str, Any]] = []
        at = instant(arrival.at)
        for user, passage in ids.items():
            rows = earlier.get(user, [])
            own = next((row for row in rows if row.passage == passage), None)
            if own is not None:
                answers.append(admission_of(own))
                continue
            passed = [(row.entered_at, row.closed_at) for row in rows if row.key == arrival.key]
            reason = (
                refused_before.get(_kept(user))
                or ("" if runs else "not-running")
                or self._refusal_of_id(arrival, user)
                or arrival.refused.get(user)
                or refusal_reason(arrival.reentry, passed, arrival.at)
                or cap_reason(arrival.cap, [row.entered_at for row in rows], arrival.at)
            )
            before = _kept(user) in refused_before
            answers.append(Admission(passage, user, arrival.version, arrival.entry, refused=reason, known=before))
            common = {"journey": arrival.journey, "version": arrival.version, "user_id": user, "key": arrival.key}
            if reason and not before:
                refused = {"user_id": _kept(user), "enrolment": arrival.enrolment, "at": at, "reason": reason}
                refusing.append({**common, **refused})
            elif not reason:
                entering.append(
                    {
                        **common,
                        "passage": passage,
                        "entry": arrival.entry,
                        "enrolment": arrival.enrolment,
                        "entered_at": at,
                        "started": 0,
                        "entered_version": arrival.version,
                        "enters_at": instant(arrival.enters_at[user]) if user in arrival.enters_at else None,
                        "properties": None if arrival.properties is None else json.dumps(arrival.properties),
                        "event_id": arrival.event_id,
                    }
                )
        if entering:
            connection.execute(passages.insert(), entering)
            self.ids.remember(connection, [row["user_id"] for row in entering])
        if refusing:
            connection.execute(refusals.insert(), refusing)
        return answers

    def _runs_in(self, connection: Connection, journey: str) -> int:
        """Give the version in which a journey runs; 0 where it does not."""
        # It stays so until the commit: who ends a journey names no keys, and so waits for all who do.
        query = select(journeys.c.version).where(journeys.c.journey == journey, journeys.c.state == "running")
        return connection.execute(query).scalar_one_or_none() or 0

    def _refusal_of_id(self, arrival: Arrival, user_id: str) -> str:
        """Refuse a user whose id makes no workflow id: nothing could be started for him, and others must not wait."""
        if _kept(user_id) != user_id:
            return "wrong-id" if "\0" in user_id else "id-too-long"
        try:
            self.ids.workflow_id(arrival.journey, user_id, arrival.key)
        except RefusedError as error:
            return error.code
        return ""

    async def refuse(self, arrival: Arrival, user_id: str, passage: str, reason: str) -> str:
        """Write down that one user was refused before the re-entry rule was asked.

        Args:
            arrival: Where and when.
            user_id: The user.
            passage: The passage that he would have had.
            reason: Why.

        Returns:
            The reason that is written down: the first one, when it was refused before; empty when it was admitted.
        """

        def work(connection: Connection) -> str:
            admitted = select(passages.c.passage).where(passages.c.passage == passage)
            if connection.execute(admitted).first() is not None:
                return ""
            connection.execute(
                self.database.insert(refusals)
                .values(
                    enrolment=arrival.enrolment,
                    user_id=_kept(user_id),
                    key=arrival.key,
                    journey=arrival.journey,
                    version=arrival.version,
                    at=instant(arrival.at),
                    reason=reason,
                )
                .on_conflict_do_nothing()
            )
            stored: str = connection.execute(
                select(refusals.c.reason).where(
                    refusals.c.enrolment == arrival.enrolment,
                    refusals.c.user_id == _kept(user_id),
                    refusals.c.key == arrival.key,
                )
            ).scalar_one()
            return stored

        written = await self.database.write(work, keys=[user_id])
        if written:
            self.database.meters.refused.add(1, {"journey": arrival.journey, "reason": written})
        return written


def refusal_reason(rule: Reentry, earlier: list[tuple[str, str | None]], at: datetime) -> str:
    """Apply the re-entry rule to one user.

    Args:
        rule: The journey's rule.
        earlier: When the user entered before under the same key, and when that passage was closed, as the ledger
            writes instants.
        at: The instant of this admission, UTC.

    Returns:
        Why the user may not enter, or an empty text.
    """
    if any(closed is None for _, closed in earlier):
        return "already-inside"
    if earlier and (rule == "never" or isinstance(rule, Keyed)):
        return "entered-before"
    return cap_reason(rule, [entered for entered, _ in earlier], at) if isinstance(rule, AtMost) else ""


def cap_reason(cap: AtMost | None, entered: list[str], at: datetime) -> str:
    """Apply a cap on entries to one user.

    Args:
        cap: At most so many in a period; None for no cap.
        entered: When the user entered before, as the ledger writes instants.
        at: The instant of this admission, UTC.

    Returns:
        Why the user may not enter, or an empty text.
    """
    if cap is None:
        return ""
    since = instant(at - duration(cap.per))
    return "too-often" if sum(moment > since for moment in entered) >= cap.at_most else ""


def _kept(user_id: str) -> str:
    """Give a user's id as a refusal holds it: any text may ask to enter, and not all can be stored or indexed."""
    encoded = user_id.encode("utf-8", "replace")
    if len(encoded) <= REFUSED_ID_BYTES and "\0" not in user_id:
        return user_id
    return f"{user_id[:60]}... (sha256 {sha256(encoded).hexdigest()})".replace("\0", "\ufffd")
