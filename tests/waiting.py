"""The journey `waiting`, which an event enters and where its users wait; clocks that go on, and looks at the tables."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import TimeSkipper

from activities.noticing import Notices
from activities.records.rows import waits
from tests.house import House, at_rest
from tests.test_events import rows
from tests.worker_that_dies import until
from workflows.contracts import user_workflow_id

ENTRY = "{kind: trigger-entry, trigger: {event: begin}, next: wait}"


def save_wait(house: House, branches: str, *, up_to: str = "1d", fixed: str = "false", more: str = "") -> None:
    """Save the journey `waiting`: entered by `begin`, it waits, and leaves by an exit named as the branch."""
    house.save(f"""\
        journey: waiting
        reentry: after_exit
        entries: {{start: {ENTRY}}}
        elements:
          wait:
            kind: wait-for-trigger
            up_to: {up_to}
            fixed: {fixed}
            branches: {{{branches}, not_triggered: late}}
          came: {{kind: push, message: {{title: "{{{{ waited.wait.n | default: 'none' }}}}", body: b}}, next: done}}
          late: {{kind: exit}}
          done: {{kind: exit}}
          {more}
        """)


def run_of(client: Client, user: str, journey: str = "waiting", key: str = "") -> WorkflowHandle[Any, Any]:
    return client.get_workflow_handle(user_workflow_id(journey, user, key))


async def begin(house: House, client: Client, user: str = "u1", **properties: Any) -> WorkflowHandle[Any, Any]:
    """Enter `waiting`, and return when the wait has begun."""
    before = len(rows(house, waits))
    assert (await house.engine.event(user, "begin", properties=properties, client=client)).started == 1
    await until(lambda: len(rows(house, waits)) > before)
    await at_rest(client, run := run_of(client, user))
    return run


async def skip(client: Client, handle: WorkflowHandle[Any, Any], lasting: timedelta) -> None:
    """Have a run's clock go on by a time at once."""
    await asyncio.wait_for(TimeSkipper(client).fast_forward(handle, lasting), 30)


async def look(house: House, client: Client, journey: str = "waiting") -> int:
    """Look at the tables for all who wait, as whoever watches the journey does."""
    return await Notices(house.stores).look(client, journey)
