"""Which runs there are and where each is: from Temporal's visibility, joined with the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from activities.records.catalogue import SavedJourney
from activities.records.reports import Passed, passed
from activities.stores import Stores
from workflows.contracts import (
    JOURNEY_ELEMENT,
    JOURNEY_ID,
    JOURNEY_USER_ID,
    JOURNEY_VERSION,
    user_of_workflow,
    user_workflow_id,
)
from workflows.errors import NotFoundError, RefusedError

PAGE = 500

RunStatus = Literal["running", "completed", "failed", "canceled", "terminated", "timed-out"]

STATUSES: dict[WorkflowExecutionStatus, RunStatus] = {
    WorkflowExecutionStatus.RUNNING: "running",
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "canceled",
    WorkflowExecutionStatus.TERMINATED: "terminated",
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
    *, journey: str = "", version: int = 0, names: Collection[str] = (), element: str = "", failed: bool = False
) -> str:
    """Write the query of Temporal's visibility that finds runs.

    What continued as new is one run with what it continued as: only its last part is found.

    A run that a plain client started may lack our search attributes: its workflow id tells journey and user too.

    Args:
        journey: Only of this journey.
        version: Only of this version of it.
        names: Only of the user whom Temporal knows by one of these: the pseudonym, the id.
        element: Only those that wait at this element.
        failed: Only those that failed.

    Returns:
        The query, with every value quoted (Temporal's page "List Filter").

    Raises:
        RefusedError: The server cannot search for this user id.
    """
    terms = ["WorkflowType = 'UserJourney'", "ExecutionStatus != 'ContinuedAsNew'"]
    if journey:
        begin = _quoted(user_workflow_id(journey, ""))
        terms.append(f"({JOURNEY_ID.name} = {_quoted(journey)} OR WorkflowId STARTS_WITH {begin})")
    if version:
        terms.append(f"{JOURNEY_VERSION.name} = {_quoted(str(version))}")
    if names and journey:
        own = [user_workflow_id(journey, name) for name in names]
        of_user = [f"WorkflowId = {_quoted(one)} OR WorkflowId STARTS_WITH {_quoted(f'{one}/key/')}" for one in own]
        terms.append(f"({' OR '.join(of_user)})")
    elif names:
        terms.append(f"({' OR '.join(f'{JOURNEY_USER_ID.name} = {_quoted(name)}' for name in names)})")
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
    # A run that began before ids were hidden has the plain one.
    names = list(dict.fromkeys((stores.ids.name(user_id), user_id))) if user_id else []
    query = runs_query(journey=journey, version=version, names=names, element=element, failed=failed)
    total = (await client.count_workflows(query)).count
    listed: list[WorkflowExecution] = []
    if limit:
        async for run in client.list_workflows(query, page_size=min(PAGE, limit), limit=limit):
            listed.append(run)
    rows: list[Run] = []
    for start in range(0, len(listed), PAGE):
        rows += await asyncio.to_thread(_rows, stores, listed[start : start + PAGE])
    return RunList(total=total, runs=rows)


def _rows(stores: Stores, page: list[WorkflowExecution]) -> list[Run]:
    """Join runs with their passages. Blocking."""

    @cache
    def version_of(journey: str, version: int) -> SavedJourney:
        return stores.catalogue.journey(stores.catalogue.find("journey", journey, version).digest)

    users = stores.ids.users([user_of_workflow(run.id)[0] for run in page])
    whose = [(_journey_of(run), users[user_of_workflow(run.id)[0]]) for run in page]
    known = passed(stores.ledger.database, set(whose))
    rows: list[Run] = []
    for run, (journey, user_id) in zip(page, whose, strict=True):
        own = _own(stores, run, journey, user_id, known.get((journey, user_id), []))
        element, since = None, run.start_time
        if own is not None:
            element = own.exit or own.whereabouts.element_in(version_of(journey, own.version))
            since = own.left_at or own.since
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


def _journey_of(run: WorkflowExecution) -> str:
    named = run.typed_search_attributes.get(JOURNEY_ID)
    return named if named is not None else run.id.split("/")[1]


def _own(stores: Stores, run: WorkflowExecution, journey: str, user_id: str, passages: list[Passed]) -> Passed | None:
    """Give a run's passage: the newest of its workflow id that began before the run was over and ended after it began.

    A run that was refused has none.
    """
    for one in passages:
        if run.id in (
            stores.ids.workflow_id(journey, user_id, one.key),
            user_workflow_id(journey, user_id, one.key),
        ):
            began = run.close_time is None or one.entered_at <= run.close_time
            if began and (one.left_at is None or one.left_at >= run.start_time):
                return one
    return None
