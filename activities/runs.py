"""Which runs there are and where each is: from Temporal's visibility, joined with the ledger."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from activities.records.pseudonyms import Pseudonyms
from activities.records.reports import Passed, passed
from activities.stores import Stores
from workflows.contracts import (
    JOURNEY_ELEMENT,
    JOURNEY_ID,
    JOURNEY_USER_ID,
    JOURNEY_VERSION,
    journey_workflow_id,
    user_of_workflow,
)
from workflows.documents import JourneyDocument, ways_out
from workflows.errors import NotFoundError, RefusedError

PAGE = 500

RunStatus = Literal["running", "completed", "failed", "canceled", "terminated", "continued-as-new", "timed-out"]

STATUSES: dict[WorkflowExecutionStatus, RunStatus] = {
    WorkflowExecutionStatus.RUNNING: "running",
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "canceled",
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "continued-as-new",
    WorkflowExecutionStatus.TIMED_OUT: "timed-out",
}


class Run(BaseModel):
    """One run, and where it is."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    workflow_id: str
    run_id: str
    journey: str
    version: int | None
    """Null for a run that was refused, or that has not begun."""
    user_id: str
    status: RunStatus
    element: str | None
    """Where the user is, or left; null for a run that was refused, or that has not begun."""
    since: datetime
    """When the user came there, or left; for a run without an element, when it started."""


class RunList(BaseModel):
    """Some runs: those under way first, then the newest; and how many there are in all."""

    model_config = ConfigDict(frozen=True)

    total: int
    runs: list[Run]


def runs_query(
    ids: Pseudonyms, *, journey: str = "", version: int = 0, user_id: str = "", element: str = "", failed: bool = False
) -> str:
    """Write the query of Temporal's visibility that finds runs.

    A run that a plain client started may lack our search attributes: its workflow id tells journey and user too.

    Args:
        ids: Names users towards Temporal.
        journey: Only of this journey.
        version: Only of this version of it.
        user_id: Only of this user.
        element: Only those that wait at this element.
        failed: Only those that failed.

    Returns:
        The query, with every value quoted (Temporal's page "List Filter").

    Raises:
        RefusedError: The server cannot search for this user id.
    """
    terms = ["WorkflowType = 'UserJourney'"]
    if journey:
        begin = _quoted(f"{journey_workflow_id(journey)}/user/")
        terms.append(f"({JOURNEY_ID.name} = {_quoted(journey)} OR WorkflowId STARTS_WITH {begin})")
    if version:
        terms.append(f"{JOURNEY_VERSION.name} = {_quoted(str(version))}")
    if user_id and journey:
        own = ids.workflow_id(journey, user_id)
        terms.append(f"(WorkflowId = {_quoted(own)} OR WorkflowId STARTS_WITH {_quoted(f'{own}/key/')})")
    elif user_id:
        terms.append(f"{JOURNEY_USER_ID.name} = {_quoted(ids.name(user_id))}")
    if element:
        terms.append(f"{JOURNEY_ELEMENT.name} = {_quoted(element)} AND ExecutionStatus = 'Running'")
    if failed:
        terms.append("ExecutionStatus = 'Failed'")
    return " AND ".join(terms)


def _quoted(value: str) -> str:
    """Quote a value. The server (1.32, measured) never finds one that holds a backslash or a double quote."""
    if {"\\", '"'} & {*value}:
        raise RefusedError(
            f"Temporal cannot search for {value!r}: a value with a backslash or a double quote is never found",
            code="not-searchable",
            hint="name the journey too: its runs are found by their workflow ids",
        )
    return "'" + value.replace("'", "''") + "'"


async def list_runs(
    client: Client,
    stores: Stores,
    *,
    journey: str = "",
    version: int = 0,
    user_id: str = "",
    element: str = "",
    failed: bool = False,
    limit: int = 100,
) -> RunList:
    """List runs with where each user is.

    Args:
        client: Reaches the server.
        stores: Catalogue and ledger.
        journey: Only of this journey.
        version: Only of this version of it.
        user_id: Only of this user.
        element: Only those that wait at this element.
        failed: Only those that failed.
        limit: Most runs to give.

    Returns:
        The runs that the server still keeps; closed ones are forgotten after the namespace's retention.

    Raises:
        NotFoundError: There is no such journey or element.
        StoreUnavailable: The ledger cannot be read.
    """
    if journey:
        found = await asyncio.to_thread(stores.catalogue.find, "journey", journey, version)
        elements = stores.catalogue.journey(found.digest).document.elements
        if element and element not in elements:
            raise NotFoundError(
                f"{journey!r} v{found.version} has no element {element!r}", hint=f"it has: {', '.join(elements)}"
            )
    elif version:
        raise RefusedError("a version is one of a journey: name the journey too", code="usage")
    query = runs_query(stores.ids, journey=journey, version=version, user_id=user_id, element=element, failed=failed)
    total = (await client.count_workflows(query)).count
    listed: list[WorkflowExecution] = []
    if limit:
        async for run in client.list_workflows(query, page_size=min(PAGE, limit), limit=limit):
            listed.append(run)
    rows: list[Run] = []
    for start in range(0, len(listed), PAGE):
        page = listed[start : start + PAGE]
        passing = await asyncio.to_thread(_passing, stores, page)
        passages = await asyncio.to_thread(passed, stores.ledger.database, set(passing))
        rows += await asyncio.to_thread(_rows, stores, page, passing, passages)
    return RunList(total=total, runs=rows)


def _passing(stores: Stores, page: list[WorkflowExecution]) -> list[tuple[str, str, str]]:
    """Say of which journey, user and key each run is; a key that is hidden stays so. Blocking."""
    named = [user_of_workflow(run.id) for run in page]
    users = stores.ids.users({user for user, _ in named})
    return [(_journey_of(run), users.get(user, user), key) for run, (user, key) in zip(page, named, strict=True)]


def _journey_of(run: WorkflowExecution) -> str:
    named = run.typed_search_attributes.get(JOURNEY_ID)
    return named if named is not None else run.id.split("/")[1]


def _rows(
    stores: Stores,
    page: list[WorkflowExecution],
    passing: list[tuple[str, str, str]],
    passages: dict[tuple[str, str, str], list[Passed]],
) -> list[Run]:
    """Join runs with their passages. Blocking."""

    @cache
    def document(journey: str, version: int) -> JourneyDocument:
        found = stores.catalogue.find("journey", journey, version)
        return stores.catalogue.journey(found.digest).document

    rows: list[Run] = []
    for run, who in zip(page, passing, strict=True):
        own = _own(run, passages.get(who, []))
        element, since = None, run.start_time
        if own is not None:
            element = own.exit or _now_at(document(own.journey, own.version), own)
            since = own.left_at or own.since
        journey, user_id, _ = who
        rows.append(
            Run(
                workflow_id=run.id,
                run_id=run.run_id,
                journey=journey,
                version=own.version if own is not None else None,
                user_id=user_id,
                status=STATUSES[run.status or WorkflowExecutionStatus.RUNNING],
                element=element,
                since=since,
            )
        )
    return rows


def _own(run: WorkflowExecution, passages: list[Passed]) -> Passed | None:
    """Give a run's passage: the newest that began before the run was over and ended after it began."""
    for one in passages:
        began = run.close_time is None or one.entered_at <= run.close_time
        if began and (one.left_at is None or one.left_at >= run.start_time):
            return one
    return None


def _now_at(document: JourneyDocument, own: Passed) -> str:
    """Follow the branch of the newest step to where it leads; the entry's, when there is none yet."""
    if not own.element:
        return document.entries[own.entry].next
    return ways_out(document.elements[own.element]).get(own.branch, own.element)
