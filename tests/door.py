"""The journey `door`, whose users leave at once but one, whose push waits; and what starts and watches their runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from activities.records.reports import explain
from tests.house import House
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, UserJourneyResult, user_workflow_id

DECIDING = (JOURNEYS_QUEUE, USERS_QUEUE)
"""Without the queue of pushes, whoever is to be pushed stays inside, and with him the journey stays running."""

DOOR = """\
journey: door
reentry: {reentry}
entries:
  start: {{kind: audience-entry, audience: {{attribute: plan, is: held}}, next: stays}}
elements:
  stays:
    kind: condition-split
    match: {{attribute: plan, is: held}}
    branches: {{users_in_segment: hold, all_other_users: out}}
  hold: {{kind: push, message: {{title: Hold, body: on}}, next: out}}
  out: {{kind: exit}}
"""

HELD = "user_id,plan\nheld,held\n"


def load_door(house: House, reentry: str) -> None:
    house.load("users", HELD)
    house.load("devices", "device_id,user_id,platform,token,opt_in\ndh,held,ios,th,true\n")
    house.hold_pushes("held")
    house.save(DOOR.format(reentry=reentry))


async def enter(house: House, client: Client, user: str, journey: str = "door") -> UserJourneyResult:
    """Start a user's run as any client would, and wait for its end."""
    handle = await house.start_user(client, journey, user)
    return UserJourneyResult.model_validate(await asyncio.wait_for(handle.result(), 20))


def refusals_of(house: House, user: str, journey: str = "door") -> list[str]:
    return [refusal.reason for refusal in explain(house.stores.ledger.database, journey, user).refused]


async def finish(house: House, client: Client) -> Any:
    """Serve the pushes at last, and give the journey's final numbers."""
    async with house.serving((PUSH_QUEUE,)):
        return await asyncio.wait_for(client.get_workflow_handle("journey/door").result(), 30)


@asynccontextmanager
async def open_door(house: House, reentry: str = "never") -> AsyncIterator[Client]:
    """Have the journey running while the body runs, and see that it ends afterwards."""
    load_door(house, reentry)
    async with house.serving(DECIDING) as client:
        await house.engine.start("door", client=client)
        yield client
        stats = await finish(house, client)
        assert (stats["state"], stats["inside"]) == ("finished", 0)


async def until_at(client: Client, user: str, element: str, journey: str = "door") -> WorkflowHandle[Any, Any]:
    """Wait until a user has arrived at an element; give his run."""
    handle = client.get_workflow_handle(user_workflow_id(journey, user))
    details = "not started"
    for _ in range(200):
        # A start returns when the audience is evaluated: the run itself may come a moment later.
        with suppress(RPCError):
            details = (await metadata_of(handle)).current_details
        if details.startswith(f"Is at **{element}** "):
            return handle
        await asyncio.sleep(0.05)
    raise AssertionError(f"{user} never came to {element}: {details}")


async def metadata_of(handle: WorkflowHandle[Any, Any]) -> WorkflowMetadata:
    found: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return found
