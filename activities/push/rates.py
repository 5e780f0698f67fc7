"""Rates: how many messages a second each provider account may get, shared by all workers.

A task queue's limit counts tasks, and one user may have devices at two providers; so the limit is a row in the ledger
from which workers lease a few messages at a time. It can be changed while everything runs. After a quiet minute the
allowance starts at a tenth and is whole a minute later, as Google asks of senders (its page "scale-fcm": ramp up over
60 seconds or longer). Marketing pushes also keep off the quarter hours, when all the world's schedules send (the same
page: avoid the 2 minutes around :00, :15, :30 and :45).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, Connection, Float, Integer, String, Table, case, func, select

from activities.records.database import METADATA, Database
from activities.records.outcomes import NOT_SENT
from activities.records.rows import instant, pushes

RAMP_SECONDS = 60.0
RAMP_START = 0.1
SKEW_SECONDS = 60
"""How far workers' clocks may be apart."""
LEASE_SHARE = 0.1
"""The share of a second's allowance that one lease takes at most, so that several workers share fairly."""
LOOK_SECONDS = 1.0
"""How long a worker takes a provider for unlimited before it looks again."""
SHOWN_MINUTES = 10
"""How many minutes back the messages of each are told."""

push_rates = Table(
    "push_rates",
    METADATA,
    Column("provider", String(40), primary_key=True),
    Column("per_second", Float, nullable=False),
    Column("window", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("ramp_from", Float, nullable=False),
)


@dataclass(frozen=True)
class KeepOff:
    """The minutes that a push keeps off: those around the quarter hours.

    Attributes:
        every: What they are around: each whole multiple of this since the epoch, which is a quarter hour in every
            zone's clock.
        margin: How long before and after it.
        ramp: How long it takes until those who were held back come at their full rate.
    """

    every: timedelta = timedelta(minutes=15)
    margin: timedelta = timedelta(minutes=2)
    ramp: timedelta = timedelta(seconds=RAMP_SECONDS)

    def wait(self, now: datetime, place: float) -> float:
        """Tell how long a push waits.

        Args:
            now: The instant at which it could go.
            place: From 0 to 1, its place in the ramp: the same on every try, and evenly spread over many pushes.

        Returns:
            Seconds; 0 outside these minutes. The ends of many waits grow denser evenly for as long as the ramp lasts.
        """
        every, margin = self.every.total_seconds(), self.margin.total_seconds()
        since = (now.timestamp() + margin) % every
        if since >= 2 * margin:
            return 0.0
        return 2 * margin - since + self.ramp.total_seconds() * math.sqrt(place)


class MinuteSent(BaseModel):
    """What a provider was sent in one minute of the clock."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    minute: datetime
    """Its beginning, UTC."""
    messages: int


class ProviderRate(BaseModel):
    """One provider's limit, and what it was sent lately. A push counts when its newest try began."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    provider: str
    per_second: float | None
    """The limit; null for none."""
    last_minute: int
    """Messages in the last 60 seconds; what was proven not to have been sent is left out, here and below."""
    minutes: list[MinuteSent]
    """The present minute of the clock first, then the nine before it."""


def _ramp(seconds: float) -> float:
    """Give the share of the limit that is allowed so long after a quiet minute."""
    return min(1.0, RAMP_START + (1 - RAMP_START) * seconds / RAMP_SECONDS)


def _ramped(seconds: float) -> float:
    """Give what the seconds since a quiet minute allowed together, in seconds of the whole limit."""
    rising = min(max(seconds, 0.0), RAMP_SECONDS)
    return rising * (RAMP_START + (1 - RAMP_START) * rising / RAMP_SECONDS / 2) + max(seconds - RAMP_SECONDS, 0.0)


@dataclass
class _Lease:
    left: int = 0
    window: int = 0
    unlimited_until: float = 0.0


class Rates:
    """Leases messages from each provider's allowance.

    Args:
        database: Where the limits are kept.
        clock: Gives Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, provider: str, patience: float, number: int = 1) -> bool:
        """Take messages from a provider's allowance, all of them or none, waiting for them if need be.

        What is more than the rest of a second's allowance is borrowed from the next seconds, which give nothing until
        it is paid back. So a user's devices are sent to together however low the limit is, nobody holds a part of what
        he needs while others wait for theirs, and over any longer time the limit holds.

        Args:
            provider: The provider.
            patience: Longest wait, seconds.
            number: How many messages.

        Returns:
            Whether they came in time.

        Raises:
            StoreUnavailable: The ledger cannot be reached.
        """
        until = self._clock() + patience
        async with self._locks.setdefault(provider, asyncio.Lock()):
            lease = self._leases.setdefault(provider, _Lease())
            while True:
                now = self._clock()
                if now < lease.unlimited_until:
                    return True
                if lease.window != int(now):
                    lease.left, lease.window = 0, int(now)
                if lease.left < number:
                    granted = await self._database.write(
                        partial(self._lease, provider=provider, now=now, number=number - lease.left),
                        keys=[f"rate of {provider}"],
                    )
                    if granted is None:
                        lease.unlimited_until = now + LOOK_SECONDS
                        return True
                    lease.left += granted
                if lease.left >= number:
                    lease.left -= number
                    return True
                wait = int(now) + 1 - now
                if now + wait > until:
                    return False
                await asyncio.sleep(wait)

    def _lease(self, connection: Connection, *, provider: str, now: float, number: int) -> int | None:
        """Lease some of this second's allowance, at least what is needed, or none of it; None without a limit."""
        row = connection.execute(select(push_rates).where(push_rates.c.provider == provider)).first()
        if row is None:
            return None
        # Workers' clocks differ a little: who is behind shares the second of the one ahead. More than that is a clock
        # that was set back.
        behind = row.window - int(now)
        window = row.window if 0 < behind <= SKEW_SECONDS else int(now)
        paid_back = row.window + row.used / row.per_second
        quiet = behind > SKEW_SECONDS or window - paid_back > RAMP_SECONDS
        ramp_from = float(window) if quiet else row.ramp_from
        allowance = max(1, int(row.per_second * _ramp(window - ramp_from)))
        # Of what was borrowed the seconds since have paid back what they allowed.
        allowed = row.per_second * (_ramped(window - ramp_from) - _ramped(row.window - ramp_from))
        used = 0 if quiet else max(0, row.used - max(int(allowed), window - row.window))
        if used >= allowance:
            return 0
        granted: int = max(number, min(int(row.per_second * LEASE_SHARE), allowance - used))
        connection.execute(
            push_rates.update()
            .where(push_rates.c.provider == provider)
            .values(window=window, used=used + granted, ramp_from=ramp_from)
        )
        return granted

    def set_limit(self, provider: str, per_second: float | None) -> None:
        """Set a provider's limit for all workers; they follow within a second. None takes it away.

        Raises:
            StoreUnavailable: The ledger cannot be written.
        """

        def work(connection: Connection) -> None:
            if per_second is None:
                connection.execute(push_rates.delete().where(push_rates.c.provider == provider))
                return
            fresh = {"per_second": per_second, "window": 0, "used": 0, "ramp_from": 0.0}
            statement = self._database.insert(push_rates).values(provider=provider, **fresh)
            # What was borrowed at another rate is forgotten.
            used = case((push_rates.c.per_second == per_second, push_rates.c.used), else_=0)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["provider"], set_={"per_second": per_second, "used": used}
                )
            )

        self._database.write_now(work)

    def current(self) -> list[ProviderRate]:
        """List each provider that has a limit or was sent something in the last ten minutes.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        minutes = [now.replace(second=0, microsecond=0) - timedelta(minutes=back) for back in range(SHOWN_MINUTES)]
        sent = pushes.c.outcome != NOT_SENT
        minute = func.substr(pushes.c.sent_at, 1, len("2026-01-31T12:00"))
        by_minute = (
            select(pushes.c.provider, minute, func.count())
            .where(pushes.c.sent_at >= instant(minutes[-1]), sent)
            .group_by(pushes.c.provider, minute)
        )
        lately = (
            select(pushes.c.provider, func.count())
            .where(pushes.c.sent_at > instant(now - timedelta(minutes=1)), sent)
            .group_by(pushes.c.provider)
        )

        def work(connection: Connection) -> list[ProviderRate]:
            limits = {row.provider: row.per_second for row in connection.execute(select(push_rates))}
            last = {provider: number for provider, number in connection.execute(lately)}
            counted: dict[str, dict[str, int]] = defaultdict(dict)
            for provider, of, number in connection.execute(by_minute):
                counted[provider][of] = number
            return [
                ProviderRate(
                    provider=name,
                    per_second=limits.get(name),
                    last_minute=last.get(name, 0),
                    minutes=[
                        MinuteSent(minute=one, messages=counted.get(name, {}).get(f"{one:%Y-%m-%dT%H:%M}", 0))
                        for one in minutes
                    ],
                )
                for name in sorted({*limits, *counted})
            ]

        return self._database.read(work)
