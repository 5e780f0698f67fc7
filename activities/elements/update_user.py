"""The update user activity: values are written to the table of users, many users' in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl
from temporalio import activity

from activities.elements.passing import Answer, Case, Passing
from activities.faults import as_failures
from activities.tables.delta import Tables
from activities.tables.properties import typed_row
from activities.tables.schema import Kind
from workflows.contracts import Outcome, Visit
from workflows.documents import UpdateUser

UPDATES_AT_ONCE = 2_000
"""Most users whose values share one commit."""
NOTHING_TO_WRITE = "nothing-to-write"


class Updates:
    """Values for users, written in few commits: those that come while one is under way share the next.

    Args:
        tables: The audience tables.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._waiting: list[tuple[str, Mapping[str, Any], asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def write(self, user_id: str, values: Mapping[str, Any]) -> None:
        """Write values of one user.

        Args:
            user_id: The user.
            values: Attribute to JSON value, read by the attribute's kind.

        Raises:
            ImportRefused: The table cannot take the values.
            StoreUnavailable: The tables cannot be written. Temporal retries; a value written twice is the same value.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((user_id, values, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._serve())
        await future

    def readable(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the values that read as their attributes' types: another would clear what is stored. Blocking.

        Raises:
            StoreUnavailable: The tables cannot be read. Temporal retries.
        """
        typed = typed_row(values, self._tables.schema("users"), textual=False)
        return {name: values[name] for name in typed.columns if typed.get_column(name).item() is not None}

    async def _serve(self) -> None:
        while self._waiting:
            # Values of the same names share a commit, so that no row leaves another's attribute unsaid; and a user
            # comes once, so that the later of two updates is the later commit.
            names = frozenset(self._waiting[0][1])
            batch: dict[str, tuple[Mapping[str, Any], list[asyncio.Future[None]]]] = {}
            rest: list[tuple[str, Mapping[str, Any], asyncio.Future[None]]] = []
            for user_id, values, future in self._waiting:
                if frozenset(values) == names and user_id not in batch and len(batch) < UPDATES_AT_ONCE:
                    batch[user_id] = (values, [future])
                else:
                    rest.append((user_id, values, future))
            self._waiting = rest
            failure: Exception | None = None
            try:
                await asyncio.to_thread(self._commit, {user: values for user, (values, _) in batch.items()})
            except Exception as error:
                failure = error
            for _, futures in batch.values():
                for future in futures:
                    if not future.done() and failure is None:
                        future.set_result(None)
                    elif not future.done() and failure is not None:
                        future.set_exception(failure)

    def _commit(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        kinds: Mapping[str, Kind] = self._tables.schema("users")
        rows = [
            typed_row(of_user, kinds, textual=False).with_columns(pl.lit(user).alias("user_id"))
            for user, of_user in values.items()
        ]
        self._tables.upsert("users", pl.concat(rows, how="diagonal"), "user_id")


class UpdateUserActivities:
    """Updates users.

    Args:
        passing: Decides whether an element may go ahead.
        updates: Writes values.
    """

    def __init__(self, passing: Passing, updates: Updates) -> None:
        self._passing = passing
        self._updates = updates

    @activity.defn(name="update-user")
    @as_failures
    async def update_user(self, visit: Visit) -> Outcome:
        """Write values to the user's attributes.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch, and what was written. Later splits of this run see it.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version is unknown, or
                a value does not fit its attribute, which it does not.
        """
        outcome = await self._passing.pass_by(visit, UpdateUser, self._update)
        # Also where an earlier try has written it.
        return outcome.model_copy(update={"learned": bool(outcome.branch)})

    async def _update(self, case: Case[UpdateUser]) -> Answer:
        given: dict[str, Any] = {}
        facts = None
        for name, value in case.element.set.items():
            if isinstance(value, str):
                given[name] = value
                continue
            facts = facts or await case.facts()
            if (found := facts.value(value)) is not None:
                given[name] = found
        given = await asyncio.to_thread(self._updates.readable, given)
        if not given:
            return Answer("next", "no value can be read as its attribute's type", outcome=NOTHING_TO_WRITE)
        await case.require_open()
        await self._updates.write(case.visit.user_id, given)
        said = ", ".join(f"{name} = {value}" for name, value in given.items())
        return Answer("next", said, outcome="updated")
