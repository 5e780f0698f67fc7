"""Goals: a passage reaches each goal once, by the push that led to it, and a goal may end its journey."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from activities.life import stats_of
from activities.records.rows import conversions, pushes
from tests.house import House
from tests.test_events import RUNS, left, open_journeys, rows, table_rows, titles
from tests.worker_that_dies import until
from workflows.contracts import user_workflow_id

GOAL = """\
journey: shop
reentry: after_exit
goals:
  bought: {trigger: {event: purchase, where: {property: amount, at_least: 10 EUR}}, within: 7d, end_journey: true}
  looked: {trigger: {event: session}}
entries:
  start: {kind: trigger-entry, trigger: {event: sign_up}, next: first}
elements:
  first: {kind: push, message: {title: First, body: b}, next: second}
  second: {kind: push, message: {title: Second, body: b}, next: wait}
  wait: {kind: time-delay, duration: 30d, next: third}
  third: {kind: push, message: {title: Third, body: b}, next: done}
  done: {kind: exit}
"""


async def test_goals(house: House) -> None:
    """A goal counts once for a passage, by the last opened push, else the last sent; it ends the journey at once."""
    house.save(GOAL)
    await open_journeys(house, "shop")
    engine = house.engine
    async with house.serving(RUNS) as client:
        await engine.event("u1", "sign_up", client=client)
        await engine.event("u4", "sign_up", client=client)
        await until(lambda: len(titles(house, "u1")) == 4 and len(titles(house, "u4")) == 2)
        opened = next(row for row in rows(house, pushes) if (row.user_id, row.element) == ("u1", "first"))
        open_event = await engine.event("", "push_opened", properties={"push_id": opened.push_id}, client=client)
        for user, amount in (("u1", "5 EUR"), ("u1", "10 EUR"), ("u4", "12 EUR"), ("u4", "13 EUR"), ("u6", "99 EUR")):
            await engine.event(user, "purchase", properties={"amount": amount}, client=client)
        await engine.event("u1", "session", client=client)
        await engine.event("u1", "session", client=client)
        old = datetime.now(UTC) - timedelta(days=1)
        await engine.event("u4", "session", at=old, client=client)
        await left(house, "shop", "u1")
        await left(house, "shop", "u4")
        ended = client.get_workflow_handle(user_workflow_id("shop", "u1"))
        assert (await asyncio.wait_for(ended.result(), 20))["reason"] == "goal: bought"
    stored = next(row for row in table_rows(house) if row["event_id"] == open_event.event_id)
    assert (stored["user_id"], stored["journey"], stored["element"]) == ("u1", "shop", "first")
    counted = {(row.user_id, row.goal): (row.element, row.opened) for row in rows(house, conversions)}
    assert counted == {("u1", "bought"): ("first", 1), ("u4", "bought"): ("second", 0), ("u1", "looked"): ("first", 1)}
    assert stats_of(house.stores, "shop").exited == {"goal: bought": 2}
    assert "Third" not in [*titles(house, "u1"), *titles(house, "u4")]
