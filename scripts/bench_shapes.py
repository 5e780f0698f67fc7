"""Workflows that `bench_journeys` measures beside ours: nothing, ordinary activities only, and a heavy shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from workflows.contracts import JOURNEY_ELEMENT, UserJourneyInput, UserJourneyResult
from workflows.user_journey import NO_INPUT, Answer, Asked, UserJourney

ATTEMPT = timedelta(seconds=30)
ONCE = RetryPolicy(maximum_attempts=1)
NODES = ("entry", "split", "message", "exit")


@workflow.defn(name="Empty")
class Empty:
    """The floor: a workflow that does nothing."""

    @workflow.run
    async def run(self, given: UserJourneyInput) -> None:
        """Do nothing.

        Args:
            given: What our own run is started with, so that the start costs the same.
        """


@workflow.defn(name="OrdinaryActivities")
class OrdinaryActivities(UserJourney):
    """Our run, whose decisions are ordinary activities."""

    @workflow.run
    async def run(self, given: UserJourneyInput = NO_INPUT) -> UserJourneyResult:
        """Pass one user through the journey.

        Args:
            given: As for `UserJourney`.
        """
        return await super().run(given)

    async def _decide(
        self, decision: Callable[[Asked], Awaitable[Answer]], asked: Asked, *, summary: str, queue: str = ""
    ) -> Answer:
        return await self._act(decision, asked, summary=summary, queue=queue)


@activity.defn(name="bench-step")
async def bench_step(given: dict[str, Any]) -> dict[str, Any]:
    """Answer at once, as much as such an activity answers."""
    return {"ok": True, "node": given["node"], "at": "2026-01-01T00:00:00Z"}


@workflow.defn(name="NineActivities")
class NineActivities:
    """A rival's shape, rebuilt: nine ordinary activities, six local ones, a patch, an upsert, for the same four nodes.

    Counted from its source (Dittofeed, snapshot 52b2bee): configuration and checks, a record of each node, a metric
    after each node, the split and the send.
    """

    @workflow.run
    async def run(self, given: UserJourneyInput) -> None:
        """Pass one user.

        Args:
            given: What our own run is started with, so that the start costs the same.
        """
        workflow.patched("record-node")
        workflow.upsert_search_attributes([JOURNEY_ELEMENT.value_set("entry")])
        for name in ("configuration", "runnable"):
            await self._ordinary(name)
        await self._local("metric")
        for node in NODES:
            if node in ("split", "message"):
                await self._ordinary(node)
            await self._ordinary(f"record-{node}")
            await self._local(f"metric-{node}")
        await self._ordinary("re-entry")
        await self._local("metric")

    async def _ordinary(self, node: str) -> None:
        await workflow.execute_activity(
            bench_step, {"node": node, "workspace": "w" * 36}, start_to_close_timeout=ATTEMPT, retry_policy=ONCE
        )

    async def _local(self, node: str) -> None:
        await workflow.execute_local_activity(bench_step, {"node": node}, start_to_close_timeout=ATTEMPT)
