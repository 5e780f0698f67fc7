"""The proof after a storm: ledger, Temporal and the provider's counts tell the same, and every number adds up.

Nothing here trusts what the engine reports of itself where it can be worked out otherwise: ways are walked through the
saved graphs, runs are read from their histories, pushes are counted by whoever received them, splits are decided again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from activities.life import stats_of
from activities.push.composing import NO_REACHABLE_DEVICE
from activities.records.outcomes import ACCEPTED, CLAIMED, UNKNOWN
from activities.records.reports import list_pushes
from activities.records.rows import moves, passages, pushes, steps
from activities.records.statistics import everybody_inside
from activities.stores import Stores
from scripts.storm_receiver import read_counts
from workflows.contracts import (
    JOURNEY_ELEMENT,
    JOURNEY_VERSION,
    UserJourneyResult,
    journey_workflow_id,
)
from workflows.documents import USERS_IN_SEGMENT, ConditionSplit, Push, ways_out

HISTORIES_AT_ONCE = 20
MOST_SHOWN = 20
"""Losses of one kind that are told one by one."""

HARMLESS = (
    # Something came while the worker closed or continued the run: it is asked again, with what came.
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
)
"""Causes of failed workflow tasks that are Temporal's ordinary course."""


@dataclass
class Expected:
    """What the storm itself knows: it wrote the tables, and asked.

    Attributes:
        audience: The users who had to enter by the audience.
        asked: The users of whom each request of the API entry was answered.
        reachable: Users who had a device from the beginning on: nobody may find them without one.
    """

    audience: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    reachable: set[str] = field(default_factory=set)


@dataclass
class Findings:
    """What the proof found.

    Attributes:
        numbers: Counts, for people and programs.
        losses: What must not be; empty after a good storm.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    def require(self, losses: Iterable[str]) -> None:
        """Add losses; of one kind the first ones are told, and how many there are."""
        found = list(losses)
        self.losses += found[:MOST_SHOWN]
        if len(found) > MOST_SHOWN:
            self.losses.append(f"... and {len(found) - MOST_SHOWN} more like the last one")


@dataclass
class Run:
    """The newest run of one workflow id, and what all its runs' histories hold."""

    execution: WorkflowExecution
    result: UserJourneyResult | None
    failed_tasks: Counter[str]
    lost_tasks: int


class Proof:
    """Compares what is kept of one journey.

    Args:
        stores: Catalogue and ledger.
        client: Reaches the server.
        counts: The provider's file.
        journey: The journey.
        expected: What the storm knows.
    """

    def __init__(self, stores: Stores, client: Client, counts: Path, journey: str, expected: Expected) -> None:
        self._stores, self._client, self._counts = stores, client, counts
        self._journey, self._expected = journey, expected

    async def find(self, *, inside: set[str]) -> Findings:
        """Prove, when nothing moves any more.

        Args:
            inside: The elements at which users may be.

        Returns:
            The numbers, and every loss.
        """
        found = Findings()
        self._versions = {
            saved.version: self._stores.catalogue.journey(saved.digest)
            for saved in self._stores.catalogue.versions("journey", self._journey)
        }
        rows = {table.name: self._rows(table) for table in (passages, steps, moves, pushes)}
        runs = await self._runs(found)
        self._users(rows["passages"], found)
        self._ways(rows, found)
        self._whereabouts(rows["passages"], runs, inside, found)
        self._pushes(rows["pushes"], found)
        self._add_up(rows["passages"], found)
        await asyncio.to_thread(self._decisions, rows["passages"], rows["steps"], found)
        return found

    def _rows(self, table: Table) -> list[Any]:
        query = select(table).where(table.c.journey == self._journey)
        return list(self._stores.ledger.database.read(lambda connection: connection.execute(query).all()))

    def _users(self, entered: Sequence[Any], found: Findings) -> None:
        """Everybody who had to enter has entered, once."""
        times = Counter(row.user_id for row in entered)
        found.numbers["entered"] = len(entered)
        found.require(f"{user} was in the audience and never entered" for user in self._expected.audience - set(times))
        found.require(f"{user} entered {number} times" for user, number in times.items() if number > 1)
        strangers = set(times) - self._expected.audience - set(self._expected.asked)
        found.require(f"{user} entered, and nobody let him" for user in strangers)

    def _ways(self, rows: dict[str, list[Any]], found: Findings) -> None:
        """Each user's steps lead through the saved graphs from his entry to where the record has him."""
        visited, moved = defaultdict(list), defaultdict(list)
        for row in sorted(rows["steps"], key=lambda row: row.step):
            visited[row.passage].append(row)
        for row in sorted(rows["moves"], key=lambda row: (row.step, row.to_version)):
            moved[row.passage].append(row)
        places = {
            one.passage: one.whereabouts.element_in(self._versions[one.version])
            for one in everybody_inside(self._stores.ledger.database, self._journey)
        }
        for row in rows["passages"]:
            said = self._walk(row, visited[row.passage], moved[row.passage], places.get(row.passage))
            found.require([f"{row.user_id}: {said}"] if said else [])
        found.numbers |= {"steps": len(rows["steps"]), "moved": len(rows["moves"])}

    def _walk(self, passage: Any, visited: list[Any], moved: list[Any], place: str | None) -> str:
        """Walk one user's way; give what is wrong with it."""
        version = passage.entered_version
        element = ways_out(self._versions[version].document.entries[passage.entry])["next"]
        for number, step in enumerate(visited, 1):
            while moved and moved[0].step <= step.step:
                version, element = moved[0].to_version, moved[0].to_element
                moved.pop(0)
            if (step.step, step.version, step.element) != (number, version, element):
                return f"step {step.step} was at {step.element!r} v{step.version}, not at {element!r} v{version}"
            element = self._versions[version].routes[element].to[step.branch]
        for move in moved:
            version, element = move.to_version, move.to_element
        if version != passage.version:
            return f"the way ends in version {version}, the record has version {passage.version}"
        if passage.closed_at is None:
            return "" if place == element else f"the record has him at {place!r}, the way leads to {element!r}"
        if passage.exit and passage.exit != element:
            return f"left at {passage.exit!r}, the way leads to {element!r}"
        return "" if passage.exit or passage.reason != "end" else "left by no exit, and without a reason"

    async def _runs(self, found: Findings) -> dict[str, Run]:
        """Read all runs of users: none may have ended badly, or stumbled over its own code."""
        own = f"JourneyId = '{self._journey}'"
        executions = [one async for one in self._client.list_workflows(own, page_size=500)]
        slots = asyncio.Semaphore(HISTORIES_AT_ONCE)

        async def read(one: WorkflowExecution) -> Run:
            async with slots:
                handle = self._client.get_workflow_handle(one.id, run_id=one.run_id)
                return await self._run(one, [event async for event in handle.fetch_history_events()])

        runs = await asyncio.gather(*(read(one) for one in executions))
        good = (
            WorkflowExecutionStatus.RUNNING,
            WorkflowExecutionStatus.COMPLETED,
            WorkflowExecutionStatus.CONTINUED_AS_NEW,
        )
        found.require(
            f"the run {run.execution.id!r} is {_name(run.execution.status)}"
            for run in runs
            if run.execution.status not in good
        )
        found.require(
            f"a workflow task of {run.execution.id!r} failed: {cause}"
            for run in runs
            for cause in run.failed_tasks
            if cause not in {WorkflowTaskFailedCause.Name(one) for one in HARMLESS}
        )
        newest: dict[str, Run] = {}
        for run in sorted(runs, key=lambda run: run.execution.start_time):
            newest[run.execution.id] = run
        failed: Counter[str] = sum((run.failed_tasks for run in runs), Counter())
        found.numbers |= {
            "runs": len(runs),
            "workflow_tasks_lost": sum(run.lost_tasks for run in runs),
            "workflow_tasks_failed": dict(failed),
        }
        newest.pop(journey_workflow_id(self._journey), None)
        return newest

    async def _run(self, execution: WorkflowExecution, events: list[HistoryEvent]) -> Run:
        failed = Counter(
            WorkflowTaskFailedCause.Name(event.workflow_task_failed_event_attributes.cause)
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
        )
        lost = sum(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT for event in events)
        result = None
        last = events[-1]
        if execution.workflow_type == "UserJourney" and last.HasField("workflow_execution_completed_event_attributes"):
            payloads = last.workflow_execution_completed_event_attributes.result.payloads
            (result,) = await self._client.data_converter.decode(payloads, [UserJourneyResult])
        return Run(execution, result, failed, lost)

    def _whereabouts(self, entered: Sequence[Any], runs: dict[str, Run], inside: set[str], found: Findings) -> None:
        """Who has left has a run that ended alike; who is inside has a run that waits where the record says."""
        places = {
            one.passage: one.whereabouts.element_in(self._versions[one.version])
            for one in everybody_inside(self._stores.ledger.database, self._journey)
        }
        ids = {self._stores.ids.workflow_id(self._journey, row.user_id, row.key): row for row in entered}
        found.require(f"the run {workflow_id!r} has no passage" for workflow_id in set(runs) - set(ids))
        found.require(f"{ids[workflow_id].user_id} entered and has no run" for workflow_id in set(ids) - set(runs))
        for workflow_id in set(ids) & set(runs):
            said = _disagreement(ids[workflow_id], runs[workflow_id], places, inside)
            found.require([f"{ids[workflow_id].user_id}: {said}"] if said else [])
        found.numbers |= {
            "left": dict(Counter(row.reason for row in entered if row.closed_at is not None)),
            "inside": dict(Counter(places.values())),
        }

    def _pushes(self, rows: Sequence[Any], found: Findings) -> None:
        """What the provider has taken is what the ledger says, marketing at most once."""
        counted = list(read_counts(self._counts))
        taken = Counter(one.key for one in counted if one.taken)
        found.require(
            f"the provider got a push with a wrong signature or key: {one.key!r}" for one in counted if one.forged
        )
        known = {row.push_id for row in rows}
        found.require(
            f"the provider has taken {key!r}, of which the ledger knows nothing" for key in set(taken) - known
        )
        marketing, shown = set(), Counter[tuple[str, str, str]]()
        for row in rows:
            element = self._versions[row.version].document.elements[row.element]
            if isinstance(element, Push) and element.purpose == "marketing":
                marketing.add(row.push_id)
                shown[row.user_id, row.device_id, row.element] += taken[row.push_id]
        found.require(
            f"{user} got {element!r} {number} times on {device}"
            for (user, device, element), number in shown.items()
            if number > 1
        )
        found.require(
            f"{row.user_id}: {row.element!r} is {row.outcome} in the ledger, and the provider has taken it "
            f"{taken[row.push_id]} times"
            for row in rows
            if (row.outcome == ACCEPTED and not taken[row.push_id])
            or (row.outcome not in (ACCEPTED, UNKNOWN, CLAIMED) and taken[row.push_id])
        )
        found.require(
            f"{row.user_id}: {row.element!r} stays claimed: what became of it is told nowhere"
            for row in rows
            if row.outcome == CLAIMED
        )
        unknown = {(row.user_id, row.device_id, row.element) for row in rows if row.outcome == UNKNOWN}
        listed = list_pushes(
            self._stores.ledger.database, journey=self._journey, outcome=UNKNOWN, limit=len(rows) + 1
        ).pushes
        found.require(
            f"{user}: {element!r} is unknown, and `journeys pushes --outcome unknown` does not list it"
            for user, _, element in unknown - {(one.user_id, one.device_id, one.element) for one in listed}
        )
        found.numbers |= {
            "pushes": dict(Counter(row.outcome for row in rows)),
            "unknown_and_taken": sum(row.outcome == UNKNOWN and taken[row.push_id] > 0 for row in rows),
            "requests": len(counted),
            "taken": taken.total(),
            "marketing_taken_twice": sum(taken[key] > 1 for key in marketing),
            "transactional_taken_again": sum(
                number - 1 for key, number in taken.items() if key in known - marketing and number > 1
            ),
        }

    def _add_up(self, entered: Sequence[Any], found: Findings) -> None:
        """The statistics of each version add up, and are those of the ledger's rows."""
        audience = inside = 0
        for version in self._versions:
            stats = stats_of(self._stores, self._journey, version)
            refused, exited = sum(stats.refused.values()), sum(stats.exited.values())
            audience, inside = audience + stats.audience, inside + stats.inside
            at = f"version {version}"
            found.require(
                [f"{at}: audience {stats.audience} is not entered {stats.entered} + refused {refused}"]
                if stats.audience != stats.entered + refused
                else []
            )
            into, out = stats.entered + stats.moved_in, stats.inside + exited + stats.moved_out
            found.require(
                [f"{at}: entered + moved in is {into}, inside + exited + moved out is {out}"] if into != out else []
            )
            found.require(
                f"{at}: {name!r} counts {one.inside} inside, which is no number of users"
                for name, one in stats.elements.items()
                if one.inside < 0 or one.arrived != one.inside + sum(one.branches.values()) + sum(one.left.values())
            )
            elsewhere = sum(one.inside for one in stats.elements.values())
            found.require(
                [f"{at}: {stats.inside} are inside, and {elsewhere} at its elements"]
                if elsewhere != stats.inside
                else []
            )
        wanted = len(self._expected.audience) + len(self._expected.asked)
        found.require([f"the audience is {audience} in all, and {wanted} came"] if audience != wanted else [])
        open_now = sum(row.closed_at is None for row in entered)
        found.require([f"{open_now} passages are open, and {inside} are counted"] if inside != open_now else [])
        found.numbers |= {"audience": audience, "refused": audience - len(entered)}

    def _decisions(self, entered: Sequence[Any], rows: Sequence[Any], found: Findings) -> None:
        """Each split decides the same again, from the table versions that it recorded."""
        users = {row.passage: row.user_id for row in entered}
        groups: dict[tuple[int, str, str], list[Any]] = defaultdict(list)
        found.require(f"a step at {row.element!r} is of no passage" for row in rows if row.passage not in users)
        for row in rows:
            decides = isinstance(self._versions[row.version].document.elements[row.element], ConditionSplit)
            if decides and row.passage in users:
                groups[row.version, row.element, row.tables].append(row)
        for (version, element, tables), decided in groups.items():
            saved = self._versions[version]
            split = saved.document.elements[element]
            assert isinstance(split, ConditionSplit)  # noqa: S101  grouped so above
            again = self._stores.segments.evaluate(
                split.match,
                datetime.fromisoformat(decided[0].as_of),
                zone=saved.document.timezone,
                versions=json.loads(tables),
            )
            members = set(again.users.get_column("user_id"))
            found.require(
                f"{users[row.passage]}: {element!r} took {row.branch!r} against the tables that it names"
                for row in decided
                if (row.branch == USERS_IN_SEGMENT) != (users[row.passage] in members)
            )
        without = {users[row.passage] for row in rows if row.passage in users and row.outcome == NO_REACHABLE_DEVICE}
        found.require(f"{user} was found without a device, and had one" for user in without & self._expected.reachable)
        decisions = sum(len(decided) for decided in groups.values())
        found.numbers |= {"decisions": decisions, "decided_from": len(groups), "without_device": len(without)}


def _disagreement(row: Any, run: Run, places: dict[str, str], inside: set[str]) -> str:
    """Tell where a passage and its run differ; empty when they agree."""
    status, attributes = run.execution.status, run.execution.typed_search_attributes
    if row.closed_at is not None:
        ended = (run.result.exit, run.result.reason) if run.result is not None else None
        if status == WorkflowExecutionStatus.COMPLETED and ended == (row.exit or "", row.reason):
            return ""
        return f"left at {row.exit!r} with {row.reason!r}; the run is {_name(status)}, with {ended}"
    place, version = attributes.get(JOURNEY_ELEMENT), attributes.get(JOURNEY_VERSION)
    if status != WorkflowExecutionStatus.RUNNING:
        return f"inside at {places.get(row.passage)!r}; the run is {_name(status)}"
    if places.get(row.passage) not in inside:
        return f"stays at {places.get(row.passage)!r}, where nobody should"
    if (place, version) != (places.get(row.passage), str(row.version)):
        return f"inside at {places.get(row.passage)!r} v{row.version}; the run waits at {place!r} v{version}"
    return ""


def _name(status: WorkflowExecutionStatus | None) -> str:
    return status.name.lower() if status is not None else "unknown"
