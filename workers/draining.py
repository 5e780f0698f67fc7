"""Draining: a worker process that was told to stop finishes what runs, takes nothing new, and ends in time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

END_SECONDS = 5.0
"""How long after the drain's bound the process ends by force: cancelled activities write down what they can."""
IDLE_SECONDS = 6.0
"""How long nothing has to run before a process that drains ends without its last polls: spans are sent every 5.

The SDK waits for the server to give back each poll. A server before temporalio/temporal's pull request 11841 may miss
one that comes at the same moment, and keeps it for a minute; a server that cannot be reached gives none back.
"""
LOOK_SECONDS = 0.25

log = logging.getLogger("journeys.worker")


class Draining(Interceptor):
    """Counts the activities that run, and ends the process that has been told to stop."""

    def __init__(self) -> None:
        self._running = 0
        self._idle: asyncio.Task[None] | None = None

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Stand before every activity, local ones too."""
        return _Counted(next, self)

    def begin(self, seconds: float) -> None:
        """Bound what is left of this process: by a second order, by the bound, and by there being nothing to do.

        Ending by force is as a crash: the ledger's first answers stand, and other workers go on with the rest.

        Args:
            seconds: How long activities may finish, before they are cancelled.
        """
        loop = asyncio.get_running_loop()
        for order in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(order, _end, 1, "ending by force: told to stop a second time")
        loop.call_later(seconds + END_SECONDS, _end, 1, "ending by force: activities do not end")
        self._idle = asyncio.create_task(self._end_when_idle())

    def finish(self) -> None:
        """Leave the rest to the process: the workers have ended, and what is open is being closed."""
        if self._idle is not None:
            self._idle.cancel()

    async def _end_when_idle(self) -> None:
        since = time.monotonic()
        while time.monotonic() - since < IDLE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            if self._running:
                since = time.monotonic()
        _end(0, "stopped: nothing runs, and the server has not given back all polls")

    async def run(self, next: ActivityInboundInterceptor, input: ExecuteActivityInput) -> Any:
        """Run an activity, counted."""
        self._running += 1
        try:
            return await next.execute_activity(input)
        finally:
            self._running -= 1


class _Counted(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, draining: Draining) -> None:
        super().__init__(next)
        self._draining = draining

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        return await self._draining.run(self.next, input)


def _end(status: int, said: str) -> None:
    log.log(logging.ERROR if status else logging.WARNING, "%s", said)
    logging.shutdown()
    os._exit(status)
