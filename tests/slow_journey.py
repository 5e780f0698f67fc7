"""The journey `slow`, whose users are inside for long; its numbers, held to the laws, and what it sent."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.client import Client

from activities.life import stats_of
from activities.records.reports import list_pushes
from tests.commands import Commands
from tests.house import House, at_rest
from workers.operating import Operator
from workflows.contracts import Stats, user_workflow_id

DAY = timedelta(days=1)

SLOW = """\
journey: slow
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: wait}
elements:
  wait: {kind: time-delay, duration: 30d, next: promo}
  promo: {kind: push, message: {title: First, body: b}, next: rest}
  rest: {kind: time-delay, duration: 10d, next: done}
  done: {kind: exit}
"""
"""u1, u2, u4 and u6 enter and wait for 30 days."""

SENDING = """\
journey: slow
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: promo}
elements:
  promo: {kind: push, message: {title: First, body: b}, next: wait}
  wait: {kind: time-delay, duration: 30d, next: done}
  done: {kind: exit}
"""
"""The same users are pushed, and wait then."""

PAYING = ("u1", "u2", "u4", "u6")


@asynccontextmanager
async def running(house: House, text: str = SLOW, journey: str = "slow") -> AsyncIterator[tuple[Client, Operator]]:
    """Have a journey running with its whole audience inside, each at rest."""
    house.save(text)
    async with house.serving() as client:
        await house.engine.start(journey, client=client)
        for user in PAYING:
            await at_rest(client, client.get_workflow_handle(user_workflow_id(journey, user)))
        yield client, Operator(client, journey)


def numbers(house: House, version: int = 0, journey: str = "slow") -> Stats:
    """Count, and hold the count to the laws."""
    stats = stats_of(house.stores, journey, version)
    assert stats.audience == stats.entered + sum(stats.refused.values())
    assert stats.entered + stats.moved_in == stats.inside + sum(stats.exited.values()) + stats.moved_out
    for element in stats.elements.values():
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values())
        assert element.inside >= 0
    assert sum(element.inside for element in stats.elements.values()) == stats.inside
    return stats


def titles(house: House) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for push in list_pushes(house.stores.ledger.database, journey="slow").pushes:
        found.setdefault(push.user_id, []).append(push.title)
    return found


def explained(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `journeys explain slow u1` says, each row without its instant."""
    monkeypatch.setenv("JOURNEYS_HOME", str(house.settings.home))
    said = Commands(house.settings.home.parent)("explain", "slow", "u1")
    assert said.status == 0, said
    return [" ".join(word for word in line.split() if not re.match(r"\d{4}-", word)) for line in said.out.splitlines()]
