"""Waking runs that wait: by signals, some at a time. A run that is over needs no telling."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.records.pseudonyms import Pseudonyms
from activities.stores import Stores

SIGNALS_AT_ONCE = 50
"""Signals under way at one moment."""
PAGE = 500
"""Runs that are told between two heartbeats."""


async def signal_runs(
    client: Client, ids: Pseudonyms, journey: str, who: Iterable[tuple[str, str]], signal: str, argument: Any = None
) -> None:
    """Signal the runs of some users; a run that is over already needs no telling.

    Args:
        client: Reaches the server.
        ids: Names users towards Temporal.
        journey: The journey.
        who: User id and key of each.
        signal: The signal's name.
        argument: What it carries; null for nothing.

    Raises:
        RPCError: The server cannot be reached.
    """
    slots = asyncio.Semaphore(SIGNALS_AT_ONCE)

    async def tell(user_id: str, key: str) -> None:
        handle = client.get_workflow_handle(ids.workflow_id(journey, user_id, key))
        try:
            async with slots:
                await handle.signal(signal, *([argument] if argument is not None else []))
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    await asyncio.gather(*(tell(user_id, key) for user_id, key in who))


async def wake_held(client: Client, stores: Stores, journey: str, epoch: int) -> int:
    """Wake those whom a pause held and nobody has woken yet, a page at a time. For activities.

    Args:
        client: Reaches the server.
        stores: The ledger.
        journey: The journey.
        epoch: The epoch with which the pause began.

    Returns:
        How many were woken.

    Raises:
        RPCError: The server cannot be reached. Asked again, it goes on behind those who were woken.
        StoreUnavailable: The ledger cannot be used. The same holds.
    """
    gate, woken = stores.gate, 0
    while page := await asyncio.to_thread(gate.held_by, journey, epoch, PAGE):
        who = [(user, key) for _, _, user, key in page]
        await signal_runs(client, stores.ids, journey, who, "resumed")
        await gate.signalled([(passage, step) for passage, step, _, _ in page])
        woken += len(page)
        activity.heartbeat(woken)
    return woken
