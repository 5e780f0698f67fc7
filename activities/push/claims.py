"""Claims: each push is written down before it is sent, so that a crash can be told from a push that never began.

```
            ┌────────────── not-sent, throttled (proven not processed: may be claimed again) ──┐
            v                                                                                  │
(nothing) -> claimed -> accepted | refused | token-dead   (settled)                            │
                │                                                                              │
                ├─────> unknown      (sent, no answer; settled by a late record, never the reverse)
                └──────────────────────────────────────────────────────────────────────────────┘
```

A retry that finds *claimed* cannot ask the provider what became of it. Marketing is then not sent again, transactional
is, with the same ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Index, String, Table, Text, bindparam, func, select, update

from activities.push.provider import Answer, Verdict
from activities.records.database import METADATA
from activities.records.ledger import Ledger
from activities.records.outcomes import (
    ACCEPTED,
    CLAIMABLE,
    CLAIMED,
    GAVE_UP,
    NOT_SENT,
    REFUSED,
    STOPPED,
    THROTTLED,
    TOKEN_DEAD,
    UNKNOWN,
    UNSENT,
    WITHDRAWN,
    abandon,
)
from activities.records.rows import instant, journeys, pushes
from workflows.contracts import Outcome, Visit
from workflows.errors import NotWarm

COUNTED = (ACCEPTED, CLAIMED, UNKNOWN)
"""Outcomes that count for frequency caps: the user got the push, or may have."""

OUTCOMES: dict[Verdict, str] = {
    Verdict.ACCEPTED: ACCEPTED,
    Verdict.TOKEN_DEAD: TOKEN_DEAD,
    Verdict.MESSAGE_BAD: REFUSED,
    Verdict.CONFIG_BAD: NOT_SENT,
    Verdict.RETRY: THROTTLED,
    Verdict.NOT_SENT: NOT_SENT,
    Verdict.UNKNOWN: UNKNOWN,
}
"""What a verdict is in the ledger."""

PATIENCE_OVER = "its time was over before it could be sent"

AGAIN = ("version", "element", "provider", "token", "title", "message", "outcome")
"""What a push that is claimed again takes from the present: also the element, where a revision has put another one in
its place."""

RESEND_LIMIT = 3
"""Most times that a transactional push is sent whose answers never came."""

# Statements of every push are built once: building one takes longer than SQLite takes to carry it out.
KNOWN = select(pushes.c.device_id, pushes.c.outcome, pushes.c.attempts, pushes.c.provider, pushes.c.token).where(
    pushes.c.passage == bindparam("own"), pushes.c.step == bindparam("at_step")
)
STATE = select(journeys.c.state).where(journeys.c.journey == bindparam("name"))

dead_addresses = Table(
    "dead_addresses",
    METADATA,
    Column("device_id", Text, primary_key=True),
    Column("provider", String(40), primary_key=True),
    Column("token", Text, nullable=False),
    Column("since", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Index("dead_by_since", "since"),
)


@dataclass(frozen=True)
class Cap:
    """At most so many marketing pushes to one user in a rolling period."""

    at_most: int
    per: timedelta


@dataclass
class Claim:
    """What a try of a push may do.

    Attributes:
        send: Devices to send to, by id.
        stored: What is written down for the visit already: nothing is left to do.
        capped: Whether a frequency cap holds the push back.
        paused: Whether the journey is paused: nothing was claimed.
        accepted: The provider of each device whose push was accepted by being written down.
    """

    send: list[str] = field(default_factory=list)
    stored: Outcome | None = None
    capped: bool = False
    paused: bool = False
    accepted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Known:
    """What the ledger holds of one device's push."""

    outcome: str
    attempts: int
    address: tuple[str, str | None]


class Claims:
    """The ledger of pushes.

    Args:
        ledger: Where they are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def claim(
        self,
        visit: Visit,
        rows: list[dict[str, Any]],
        *,
        resend: bool,
        caps: Iterable[Cap],
        finish: Callable[[Counter[str]], tuple[Outcome, str]],
        now: datetime,
    ) -> Claim:
        """Claim a push's devices, or finish the visit where nothing is left to send, in one transaction.

        A pause that was committed before is met here, however old the worker's copy of it is.

        Args:
            visit: Whose visit to which push.
            rows: One row of `pushes` per device, its outcome *claimed*, or *accepted* where the ledger itself is the
                provider.
            resend: Whether a push whose answer never came is sent again.
            caps: Frequency caps that hold.
            finish: Makes the visit's outcome from the devices' outcomes.
            now: The instant of the try, UTC.

        Returns:
            What to send, or what is written down.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Claim:
            stored = self._ledger.outcome_in(connection, visit, deciding=True)
            if stored is not None or self._is_paused(connection, visit.journey):
                return Claim(stored=stored, paused=stored is None)
            known = self._known(connection, visit)
            # What was not sent yet counts for no cap: another push may have taken its place since.
            fresh = all(one.outcome in UNSENT for one in known.values())
            if fresh and self._is_capped(connection, visit, caps, now):
                return Claim(capped=True)
            claim = Claim()
            current = {row["device_id"]: row for row in rows}
            # An address that may have got it is not sent to again under the name of another device.
            sent_to = {one.address for one in known.values() if one.outcome not in UNSENT and one.address[1]}
            new = [row for row in rows if row["device_id"] not in known and _address(row) not in sent_to]
            claim.send += [row["device_id"] for row in new if row["outcome"] == CLAIMED]
            if new:
                connection.execute(pushes.insert(), new)
            for device_id, one in known.items():
                row = current.get(device_id)
                if row is not None and (one.outcome in CLAIMABLE or _again(one, resend)):
                    self._claim_again(connection, visit, row, one.attempts + 1)
                    claim.send += [device_id] if row["outcome"] == CLAIMED else []
                elif one.outcome in CLAIMABLE:
                    self._set(connection, visit, device_id, WITHDRAWN, "the device can no longer be reached")
                elif one.outcome == CLAIMED:
                    self._set(connection, visit, device_id, UNKNOWN, STOPPED)
            if not claim.send:
                claim.stored = self._finish(connection, visit, finish)
            claim.accepted = _accepted(new)
            return claim

        return self._counted(await self._ledger.database.write(work, keys=[visit.user_id]))

    def _counted(self, claim: Claim) -> Claim:
        for provider in claim.accepted:
            self._ledger.database.meters.pushes.add(1, {"provider": provider, "outcome": ACCEPTED})
        return claim

    async def settle(
        self,
        visit: Visit,
        answers: Mapping[str, Answer],
        *,
        resend: bool,
        give_up: bool,
        finish: Callable[[Counter[str]], tuple[Outcome, str]],
        now: datetime,
    ) -> Outcome | None:
        """Record answers, mark dead addresses, and finish the visit when no device is left to try.

        Args:
            visit: Whose visit to which push.
            answers: Device id to answer.
            resend: Whether a push whose answer never came is sent again.
            give_up: Whether what could be tried again is given up.
            finish: Makes the visit's outcome from the devices' outcomes.
            now: The instant, UTC.

        Returns:
            What is written down for the visit; None while some device is to be tried again.

        Raises:
            StoreUnavailable: The ledger cannot be written. The claims stay, and a retry finds them.
        """

        def work(connection: Connection) -> Outcome | None:
            for device_id, answer in answers.items():
                self._set(connection, visit, device_id, OUTCOMES[answer.verdict], answer.detail)
                if answer.verdict is Verdict.TOKEN_DEAD:
                    self._mark_dead(connection, visit, device_id, answer, now)
            known, own = self._known(connection, visit), _of(visit)
            stored = self._ledger.outcome_in(connection, visit)
            if stored is not None:  # taken out meanwhile, or finished by a later try: nobody tries again
                abandon(connection, *own)
                return stored
            # Of the others it is settled that nothing is tried.
            if any(one.outcome in CLAIMABLE or _again(one, resend) for name, one in known.items() if name in answers):
                if not give_up:
                    return None
                abandon(connection, *own, unsent=GAVE_UP, detail=PATIENCE_OVER)
            try:
                return self._finish(connection, visit, finish)
            except NotWarm:  # handed over to another version meanwhile, which asks anew: the answers stay
                return None

        return await self._ledger.database.write(work, keys=[visit.user_id])

    async def pass_over(
        self,
        visit: Visit,
        answer: Outcome,
        *,
        outcome: str,
        finish: Callable[[Counter[str]], tuple[Outcome, str]],
    ) -> Outcome:
        """Finish a visit of which nothing is sent any more.

        Args:
            visit: Whose visit to which push.
            answer: What is answered where no earlier try has sent anything.
            outcome: The same for statistics; *gave-up* is what it is for the devices too.
            finish: Makes the visit's outcome from the devices' outcomes, where an earlier try has.

        Returns:
            What is written down for the visit.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Outcome:
            if self._known(connection, visit):
                given_up = outcome == GAVE_UP
                abandon(connection, *_of(visit), **({"unsent": GAVE_UP, "detail": PATIENCE_OVER} if given_up else {}))
                if any(one.outcome not in UNSENT for one in self._known(connection, visit).values()):
                    return self._finish(connection, visit, finish)
            return self._ledger.record_in(connection, visit, answer, outcome=outcome)

        return await self._ledger.database.write(work, keys=[visit.user_id])

    def dead(self, device_ids: list[str]) -> dict[tuple[str, str], tuple[str, str]]:
        """Give the dead addresses of some devices: (device, provider) to (token, instant since)."""
        query = select(dead_addresses).where(dead_addresses.c.device_id.in_(device_ids))
        rows = self._ledger.database.read(lambda connection: connection.execute(query).all())
        return {(row.device_id, row.provider): (row.token, row.since) for row in rows}

    def all_dead(self) -> list[tuple[str, str, str, str]]:
        """Give every dead address: device, provider, token, instant since."""
        query = select(dead_addresses)
        rows = self._ledger.database.read(lambda connection: connection.execute(query).all())
        return [(row.device_id, row.provider, row.token, row.since) for row in rows]

    def forget_dead(self, addresses: Iterable[tuple[str, str, str, str]]) -> None:
        """Forget dead addresses that the tables tell of by now; one that died again meanwhile is another one.

        Args:
            addresses: As `all_dead` gave them.

        Raises:
            StoreUnavailable: The ledger cannot be written.
        """
        row = dead_addresses.c
        columns = (row.device_id, row.provider, row.token, row.since)
        statement = dead_addresses.delete().where(*(column == bindparam(f"old_{column.name}") for column in columns))
        given = [{f"old_{column.name}": value for column, value in zip(columns, one, strict=True)} for one in addresses]
        if given:
            self._ledger.database.write_now(lambda connection: connection.execute(statement, given))

    def _known(self, connection: Connection, visit: Visit) -> dict[str, _Known]:
        rows = connection.execute(KNOWN, {"own": visit.passage, "at_step": visit.step})
        return {row.device_id: _Known(row.outcome, row.attempts, (row.provider, row.token)) for row in rows}

    def _claim_again(self, connection: Connection, visit: Visit, row: Mapping[str, Any], attempts: int) -> None:
        """Claim a push that was not sent, as it is now: the device may have another address by now, or language."""
        again = {name: row[name] for name in AGAIN}
        again |= {"attempts": attempts, "sent_at": instant(datetime.now(UTC)), "detail": None}
        connection.execute(update(pushes).where(*_of(visit), pushes.c.device_id == row["device_id"]).values(**again))

    def _set(self, connection: Connection, visit: Visit, device_id: str, outcome: str, detail: str | None) -> None:
        """Move one push to an outcome; what is settled stays so."""
        moving = (CLAIMED, UNKNOWN, *CLAIMABLE)
        connection.execute(
            update(pushes)
            .where(*_of(visit), pushes.c.device_id == device_id, pushes.c.outcome.in_(moving))
            .values(outcome=outcome, detail=detail)
        )

    def _finish(
        self, connection: Connection, visit: Visit, finish: Callable[[Counter[str]], tuple[Outcome, str]]
    ) -> Outcome:
        outcomes = Counter(one.outcome for one in self._known(connection, visit).values())
        answer, outcome = finish(outcomes)
        return self._ledger.record_in(connection, visit, answer, outcome=outcome)

    def _is_paused(self, connection: Connection, journey: str) -> bool:
        # It stays so until the commit: who pauses names no keys, and so waits for all who do.
        return connection.execute(STATE, {"name": journey}).scalar_one_or_none() == "paused"

    def _is_capped(self, connection: Connection, visit: Visit, caps: Iterable[Cap], now: datetime) -> bool:
        for cap in caps:
            sent = (
                select(pushes.c.passage, pushes.c.step)
                .where(
                    pushes.c.user_id == visit.user_id,
                    pushes.c.at > instant(now - cap.per),
                    pushes.c.capped_by == 1,
                    pushes.c.outcome.in_(COUNTED),
                )
                .distinct()
                .subquery()
            )
            if connection.execute(select(func.count()).select_from(sent)).scalar_one() >= cap.at_most:
                return True
        return False

    def capping(self, since: datetime) -> dict[str, list[datetime]]:
        """Give when each user was sent a push that counts for frequency caps. Blocking.

        Args:
            since: The earliest instant, UTC, excluded.

        Returns:
            User to instants, one for each push, however many devices it went to.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        query = (
            select(pushes.c.user_id, func.max(pushes.c.at).label("at"))
            .where(pushes.c.at > instant(since), pushes.c.capped_by == 1, pushes.c.outcome.in_(COUNTED))
            .group_by(pushes.c.passage, pushes.c.step, pushes.c.user_id)
        )
        found: dict[str, list[datetime]] = {}
        for row in self._ledger.database.read(lambda connection: connection.execute(query).all()):
            found.setdefault(row.user_id, []).append(datetime.fromisoformat(row.at))
        return found

    def _mark_dead(self, connection: Connection, visit: Visit, device_id: str, answer: Answer, now: datetime) -> None:
        row = connection.execute(
            select(pushes.c.provider, pushes.c.token).where(*_of(visit), pushes.c.device_id == device_id)
        ).one()
        values = {
            "token": row.token,
            "since": instant(answer.dead_since or now),
            "detail": answer.detail,
        }
        statement = self._ledger.database.insert(dead_addresses).values(
            device_id=device_id, provider=row.provider, **values
        )
        connection.execute(statement.on_conflict_do_update(index_elements=["device_id", "provider"], set_=values))


def _accepted(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [row["provider"] for row in rows if row["outcome"] == ACCEPTED]


def _again(one: _Known, resend: bool) -> bool:
    """Tell whether a push whose answer never came is sent again, with the same ids."""
    return resend and one.outcome in (CLAIMED, UNKNOWN) and one.attempts < RESEND_LIMIT


def _address(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["provider"], row.get("token")


def _of(visit: Visit) -> tuple[Any, ...]:
    return pushes.c.passage == visit.passage, pushes.c.step == visit.step
