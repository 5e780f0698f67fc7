"""Heartbeats: the server learns within seconds that a worker is gone, however long one step of an activity takes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from temporalio import activity

BEAT_SECONDS = 3.0
"""How often: the shortest heartbeat timeout of our workflows is 20 s."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def beating(work: Callable[Arguments, Awaitable[Result]]) -> Callable[Arguments, Awaitable[Result]]:
    """Let an activity tell the server that its worker lives, while it does its work.

    Args:
        work: The activity. What takes long in it is done in threads, which leave the event loop free to tell.

    Returns:
        The activity, with heartbeats beside it.
    """

    @functools.wraps(work)
    async def beaten(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if activity.info().is_local:  # it ends within its workflow task
            return await work(*args, **kwargs)
        beats = asyncio.create_task(_beat())
        try:
            return await work(*args, **kwargs)
        finally:
            beats.cancel()

    return beaten


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)  # what ends before needs none: each is billed
        activity.heartbeat()
