"""The gate: what it says of pauses is never older than may be trusted, and a pause of long ago costs nothing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event

from activities.records import gate
from activities.records.database import Database
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from tests.test_admission import NOW
from tests.test_ledger import visit
from workflows.errors import StoreUnavailable


@pytest.fixture
def database(ledger: Ledger) -> Database:
    return ledger.database


async def test_a_copy_that_came_too_late_is_not_trusted(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a slow database said of pauses is as old as the question: too old to be trusted, it lets nobody act."""
    await ledger.open_journey("j", 1, "d", "launch", NOW)
    found = Gate(database)
    assert (await found.lives())["j"].state == "running"
    monkeypatch.setattr(gate, "COPY_SECONDS", 0.05)
    monkeypatch.setattr(gate, "TRUST_SECONDS", 2.0)

    def slowly(*_: Any) -> None:
        time.sleep(2.1)

    await asyncio.sleep(2)
    event.listen(database._reading, "before_cursor_execute", slowly)
    try:
        with pytest.raises(StoreUnavailable, match="to say which journeys are paused"):
            await found.lives()
    finally:
        event.remove(database._reading, "before_cursor_execute", slowly)
    assert (await found.lives())["j"].state == "running"


async def test_a_pause_of_long_ago_costs_nothing(database: Database, ledger: Ledger) -> None:
    """Whoever comes a day after a pause is not asked whether it held him; who was woken, or waits, is."""
    await ledger.open_journey("j", 1, "d", "launch", NOW)
    found = Gate(database)
    assert not (await found.lives())["j"].may_have_held(visit("p", woken=True))
    await found.pause("j", NOW)
    await found.resume("j", "now", NOW)
    await found.renew()
    life = (await found.lives())["j"]
    assert life.resumed_at == NOW
    asked = [life.may_have_held(visit("p", **said)) for said in ({}, {"woken": True}, {"until": NOW})]
    assert asked == [False, True, True]
    await found.pause("j", datetime.now(UTC))
    await found.resume("j", "now", datetime.now(UTC))
    await found.renew()
    assert (await found.lives())["j"].may_have_held(visit("p"))
