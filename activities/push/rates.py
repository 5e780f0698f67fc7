"""Rates: how many messages a second each provider account may get, shared by all workers.

A task queue's limit counts tasks, and one user may have devices at two providers; so the limit is a row in the ledger
from which workers lease a few messages at a time. It can be changed while everything runs. After a quiet minute the
allowance starts at a tenth and is whole a minute later, as Google asks of senders (its page "scale-fcm": ramp up over
60 seconds or longer).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, Connection, Float, Integer, String, Table, func, select

from activities.push.provider import Verdict
from activities.records.database import METADATA, Database
from activities.records.rows import instant, pushes

RAMP_SECONDS = 60.0
RAMP_START = 0.1
LEASE_SHARE = 0.1
"""The share of a second's allowance that one lease takes at most, so that several workers share fairly."""
LOOK_SECONDS = 1.0
"""How long a worker takes a provider for unlimited before it looks again."""

push_rates = Table(
    "push_rates",
    METADATA,
    Column("provider", String(40), primary_key=True),
    Column("per_second", Float, nullable=False),
    Column("window", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("ramp_from", Float, nullable=False),
)


class ProviderRate(BaseModel):
    """One provider's limit, and what it was sent lately."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    provider: str
    per_second: float | None
    """The limit; null for none."""
    last_minute: int
    """Messages claimed or accepted in the last minute."""


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

    async def take(self, provider: str, patience: float) -> bool:
        """Take one message from a provider's allowance, waiting for it if need be.

        Args:
            provider: The provider.
            patience: Longest wait, seconds.

        Returns:
            Whether there was one in time.

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
                if lease.left > 0 and lease.window == int(now):
                    lease.left -= 1
                    return True
                granted = await self._database.write(partial(self._lease, provider=provider, now=now))
                if granted is None:
                    lease.unlimited_until = now + LOOK_SECONDS
                elif granted:
                    lease.left, lease.window = granted, int(now)
                else:
                    wait = int(now) + 1 - now
                    if now + wait > until:
                        return False
                    await asyncio.sleep(wait)

    def _lease(self, connection: Connection, *, provider: str, now: float) -> int | None:
        """Lease some of this second's allowance; None where there is no limit."""
        row = connection.execute(select(push_rates).where(push_rates.c.provider == provider)).first()
        if row is None:
            return None
        window = int(now)
        used = row.used if row.window == window else 0
        ramp_from = now if now - row.window > RAMP_SECONDS else row.ramp_from
        ramp = min(1.0, RAMP_START + (1 - RAMP_START) * (now - ramp_from) / RAMP_SECONDS)
        allowance = max(1, int(row.per_second * ramp))
        granted = min(max(1, int(row.per_second * LEASE_SHARE)), max(0, allowance - used))
        if granted:
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
            connection.execute(
                statement.on_conflict_do_update(index_elements=["provider"], set_={"per_second": per_second})
            )

        self._database.write_now(work)

    def current(self) -> list[ProviderRate]:
        """List each provider that has a limit or was sent something in the last minute."""

        def work(connection: Connection) -> list[ProviderRate]:
            limits = {row.provider: row.per_second for row in connection.execute(select(push_rates))}
            since = instant(datetime.fromtimestamp(self._clock(), UTC) - timedelta(minutes=1))
            query = (
                select(pushes.c.provider, func.count())
                .where(pushes.c.at > since, pushes.c.outcome != Verdict.NOT_SENT.value)
                .group_by(pushes.c.provider)
            )
            sent = {provider: number for provider, number in connection.execute(query)}
            return [
                ProviderRate(provider=name, per_second=limits.get(name), last_minute=sent.get(name, 0))
                for name in sorted({*limits, *sent})
            ]

        return self._database.read(work)
