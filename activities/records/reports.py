"""What people ask the ledger: why did this user (not) get it, and which pushes went out."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, func, select

from activities.records.database import Database
from activities.records.rows import moves, passages, pushes, refusals, steps
from activities.records.statistics import Whereabouts, whereabouts_of
from workflows.contracts import Versions


class ExplainedPush(BaseModel):
    """What became of a push on one device."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    device_id: str
    provider: str
    outcome: str
    title: str
    detail: str | None
    """What the provider said, where it said anything."""


class ExplainedStep(BaseModel):
    """One element of a user's way."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    step: int
    """Number of the visit in its passage."""
    version: int
    element: str
    at: datetime
    branch: str
    because: str
    """Why, in a few words."""
    outcome: str
    tables: Versions | None = None
    """The version of each table that the decision read; null where none was."""
    as_of: datetime | None = None
    """The instant of the evaluation that decided; null where none did."""
    pushes: list[ExplainedPush] = []
    """Where the element sends: what became of it on each device."""


class ExplainedMove(BaseModel):
    """One time that a user was made to go on elsewhere, by a revision or an operator."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    step: int
    """The visit that went on elsewhere: what it did, if anything, is the step of this number."""
    at: datetime
    from_version: int
    from_element: str
    to_version: int
    to_element: str


class ExplainedRun(BaseModel):
    """One passage of a user."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    version: int
    """The version that the user passes now, or passed last."""
    key: str
    entry: str
    entered_at: datetime
    state: Literal["admitted", "inside", "left"]
    """`admitted` until the run has begun."""
    left_at: datetime | None = None
    exit: str | None = None
    reason: str | None = None
    steps: list[ExplainedStep]
    moves: list[ExplainedMove]


class ExplainedRefusal(BaseModel):
    """One admission that was refused."""

    model_config = ConfigDict(frozen=True)

    version: int
    at: datetime
    reason: str


class Explanation(BaseModel):
    """All that the ledger knows of one user in one journey."""

    model_config = ConfigDict(frozen=True)

    journey: str
    user_id: str
    runs: list[ExplainedRun]
    refused: list[ExplainedRefusal]


class SentPush(BaseModel):
    """One push to one device."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    journey: str
    user_id: str
    device_id: str
    element: str
    at: datetime
    provider: str
    outcome: str
    title: str
    body: str


class PushList(BaseModel):
    """Some pushes, newest first, and how many there are in all."""

    model_config = ConfigDict(frozen=True)

    total: int
    pushes: list[SentPush]


def explain(database: Database, journey: str, user_id: str) -> Explanation:
    """Tell all that the ledger knows of one user in one journey; empty lists when it knows nothing.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """

    def work(connection: Connection) -> Explanation:
        of_user = (passages.c.journey == journey, passages.c.user_id == user_id)
        sent: dict[tuple[str, int], list[ExplainedPush]] = {}
        for row in connection.execute(
            select(pushes).join(passages, passages.c.passage == pushes.c.passage).where(*of_user)
        ):
            sent.setdefault((row.passage, row.step), []).append(
                ExplainedPush(
                    device_id=row.device_id,
                    provider=row.provider,
                    outcome=row.outcome,
                    title=row.title,
                    detail=row.detail,
                )
            )
        ways: dict[str, list[ExplainedStep]] = {}
        for row in connection.execute(
            select(steps).join(passages, passages.c.passage == steps.c.passage).where(*of_user).order_by(steps.c.step)
        ):
            ways.setdefault(row.passage, []).append(
                ExplainedStep(
                    step=row.step,
                    version=row.version,
                    element=row.element,
                    at=row.at,
                    branch=row.branch,
                    because=row.because,
                    outcome=row.outcome,
                    tables=json.loads(row.tables) if row.tables else None,
                    as_of=row.as_of,
                    pushes=sorted(sent.get((row.passage, row.step), []), key=lambda push: push.device_id),
                )
            )
        moved: dict[str, list[ExplainedMove]] = {}
        for row in connection.execute(
            select(moves).join(passages, passages.c.passage == moves.c.passage).where(*of_user).order_by(moves.c.step)
        ):
            found = {name: getattr(row, name) for name in ExplainedMove.model_fields}
            moved.setdefault(row.passage, []).append(ExplainedMove.model_validate(found))
        runs = [
            ExplainedRun(
                version=row.version,
                key=row.key,
                entry=row.entry,
                entered_at=row.entered_at,
                state="left" if row.closed_at else "inside" if row.begun_at else "admitted",
                left_at=row.closed_at,
                exit=row.exit,
                reason=row.reason,
                steps=ways.get(row.passage, []),
                moves=moved.get(row.passage, []),
            )
            for row in connection.execute(select(passages).where(*of_user).order_by(passages.c.entered_at))
        ]
        refused = [
            ExplainedRefusal(version=row.version, at=row.at, reason=row.reason)
            for row in connection.execute(
                select(refusals)
                .where(refusals.c.journey == journey, refusals.c.user_id == user_id)
                .order_by(refusals.c.at)
            )
        ]
        return Explanation(journey=journey, user_id=user_id, runs=runs, refused=refused)

    return database.read(work)


def list_pushes(
    database: Database,
    *,
    journey: str | None = None,
    user_id: str | None = None,
    outcome: str | None = None,
    limit: int = 100,
) -> PushList:
    """List pushes, newest first.

    Args:
        database: Where the ledger is kept.
        journey: Only of this journey.
        user_id: Only to this user.
        outcome: Only with this outcome.
        limit: Most rows to give.

    Returns:
        The rows, and the number of all that match.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    wanted = [
        column == value
        for column, value in (
            (pushes.c.journey, journey),
            (pushes.c.user_id, user_id),
            (pushes.c.outcome, outcome),
        )
        if value is not None
    ]

    def work(connection: Connection) -> PushList:
        total = connection.execute(select(func.count()).select_from(pushes).where(*wanted)).scalar_one()
        order = (pushes.c.at.desc(), pushes.c.user_id, pushes.c.device_id)
        rows = connection.execute(select(pushes).where(*wanted).order_by(*order).limit(limit))
        found = [
            SentPush(
                journey=row.journey,
                user_id=row.user_id,
                device_id=row.device_id,
                element=row.element,
                at=row.at,
                provider=row.provider,
                outcome=row.outcome,
                title=row.title,
                body=json.loads(row.message)["body"],
            )
            for row in rows
        ]
        return PushList(total=total, pushes=found)

    return database.read(work)


@dataclass(frozen=True)
class Passed:
    """One passage, as far as it went.

    Attributes:
        key: The key of keyed runs.
        version: The version that it is in.
        entered_at: When, UTC.
        whereabouts: Where it is, or was when it was closed outside an exit.
        since: When the element before was done with, or when it moved here; when the run began, where nothing was.
        left_at: When the user left; null while inside.
        exit: The exit element; empty while inside, or when the user left elsewhere.
    """

    key: str
    version: int
    entered_at: datetime
    whereabouts: Whereabouts
    since: datetime
    left_at: datetime | None
    exit: str


def passed(database: Database, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[Passed]]:
    """Tell how far some users went.

    Args:
        database: Where the ledger is kept.
        wanted: Journey and user of each; some hundreds at most.

    Returns:
        For each of them that the ledger knows, the passages of all keys, newest first.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    where = (
        passages.c.journey.in_({journey for journey, _ in wanted}),
        passages.c.user_id.in_({user for _, user in wanted}),
    )
    columns, tables = whereabouts_of(*where)
    at = func.coalesce(moves.c.at, steps.c.at, passages.c.begun_at, passages.c.entered_at).label("since")
    query = select(passages, at, *columns[1:]).select_from(tables).where(*where).order_by(passages.c.entered_at.desc())
    found: dict[tuple[str, str], list[Passed]] = {}
    for row in database.read(lambda connection: connection.execute(query).all()):
        found.setdefault((row.journey, row.user_id), []).append(
            Passed(
                key=row.key,
                version=row.version,
                entered_at=datetime.fromisoformat(row.entered_at),
                whereabouts=Whereabouts(row.entry, row.element, row.branch, row.to_element),
                since=datetime.fromisoformat(row.since),
                left_at=datetime.fromisoformat(row.closed_at) if row.closed_at else None,
                exit=row.exit or "",
            )
        )
    return found
