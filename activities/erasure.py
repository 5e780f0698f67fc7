"""A person's data: found in every place that keeps some, given out, or erased.

```
audience tables   rows of users, devices, events and imported lists   deleted; old files go with upkeep, or at once
ledger            passages, steps, refusals, pushes, dead addresses   made nobody's: the numbers stay as they are
snapshots         audiences that were evaluated                       a random name stands in the user's place
rejects           rows that imports could not take                    removed
Temporal          open and closed runs                                terminated, deleted with their histories
```

What is outside is not reached: the files that were imported, backups, logs, the databases of providers.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import polars as pl
from pydantic import BaseModel, ConfigDict
from temporalio.api.common.v1 import WorkflowExecution as Execution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.push.profiles import present_values
from activities.records.personal import ERASED, devices_in_ledger, journeys_of, make_nobodys, rows_of
from activities.stores import Stores
from activities.tables.stored import TABLES
from activities.tables.tidying import forget_versions
from workflows.contracts import user_workflow_id
from workflows.errors import JourneyError, RefusedError

GONE_SECONDS = 90.0
"""How long to wait until Temporal has deleted a run: its queues tell each other every 30 s that they are done with it
(dynamic settings `history.transferProcessorUpdateAckInterval` and `history.visibilityProcessorUpdateAckInterval`)."""
CELLS = re.compile(r"""[,;\t"'\n]""")


class ErasureIncomplete(JourneyError):
    """Something of the user is still there, or there again: erasing again goes on."""

    code = "erasure-incomplete"


class FoundRun(BaseModel):
    """One run of a user that Temporal keeps."""

    model_config = ConfigDict(frozen=True)

    workflow_id: str
    run_id: str
    status: str
    started_at: datetime
    closed_at: datetime | None


class PersonalData(BaseModel):
    """All that is kept of one user."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    user_id: str
    pseudonym: str | None
    """What Temporal knows the user by; null where ids are not hidden."""
    tables: dict[str, list[dict[str, Any]]]
    """Audience table to rows."""
    ledger: dict[str, list[dict[str, Any]]]
    """Table of the ledger to rows."""
    snapshots: list[str]
    """Enrolments in whose audience the user was."""
    rejects: dict[str, int]
    """File of rejected rows to the number of rows that name the user."""
    runs: list[FoundRun] | None
    """Runs in Temporal; null when it was not asked."""

    @property
    def counts(self) -> dict[str, int]:
        """How much there is in each place."""
        found = {f"table {name}": len(rows) for name, rows in self.tables.items()}
        found |= {f"ledger {name}": len(rows) for name, rows in self.ledger.items()}
        found |= {"snapshots": len(self.snapshots), "rejects": sum(self.rejects.values())}
        found["runs"] = len(self.runs or [])
        return {place: number for place, number in found.items() if number}


class ErasureReport(BaseModel):
    """What was found of a user, and is erased."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    user_id: str
    erased: dict[str, int]
    """Place to the number of rows, snapshots and runs."""
    runs: bool
    """Whether Temporal was asked."""
    vacuumed: bool
    """Whether files of older versions are gone too; else they go with `journeys upkeep`."""


async def find_user(stores: Stores, client: Client | None, user_id: str, rejects: Path) -> PersonalData:
    """Find all that is kept of a user.

    Args:
        stores: Tables, ledger, snapshots.
        client: Reaches Temporal; null leaves it out.
        user_id: The user.
        rejects: Folder of rejected rows.

    Returns:
        What is there.

    Raises:
        StoreUnavailable: A store cannot be reached.
    """
    tables, devices = await asyncio.to_thread(_in_tables, stores, user_id)
    return PersonalData(
        user_id=user_id,
        pseudonym=stores.ids.name(user_id) if stores.ids.secret else None,
        tables={name: [present_values(row) for row in rows.iter_rows(named=True)] for name, rows in tables.items()},
        ledger=await asyncio.to_thread(rows_of, stores.ledger, user_id, devices),
        snapshots=[path.stem for path in await asyncio.to_thread(lambda: list(_snapshots(stores, user_id)))],
        rejects=await asyncio.to_thread(lambda: {str(path): len(rows) for path, _, rows in _rejects(rejects, user_id)}),
        runs=await _runs(client, stores, user_id) if client is not None else None,
    )


async def erase_user(
    stores: Stores, client: Client | None, user_id: str, rejects: Path, *, vacuum: bool
) -> ErasureReport:
    """Erase all that is kept of a user. Killed half-way, it is done again from the start.

    Args:
        stores: Tables, ledger, snapshots.
        client: Reaches Temporal; null leaves runs as they are.
        user_id: The user.
        rejects: Folder of rejected rows.
        vacuum: Remove at once what older versions of tables and of the ledger's file still hold. They can be read no
            more afterwards.

    Returns:
        What was erased where.

    Raises:
        RefusedError: Nothing is kept of this user.
        ErasureIncomplete: Something is there again: an import or a worker wrote meanwhile.
        StoreUnavailable: A store cannot be reached.
    """
    found = await find_user(stores, client, user_id, rejects)
    if not found.counts and not vacuum:
        raise RefusedError(
            f"nothing is kept of the user {user_id!r}", code="unknown-user", hint="ids are compared letter by letter"
        )
    alias = f"{ERASED}-{uuid4().hex}"
    devices = await asyncio.to_thread(_erase_files, stores, user_id, alias, rejects)
    if client is not None:
        await _delete_runs(client, found.runs or [])
    enrolments = [unquote(name) for name in found.snapshots]
    await asyncio.to_thread(
        make_nobodys, stores.ledger, user_id, devices, alias, enrolments, datetime.now(UTC)
    )  # last: by the ledger the runs are found
    if vacuum:
        await asyncio.to_thread(_vacuum, stores)
    left = await find_user(stores, client, user_id, rejects)
    if left.counts:
        again = ", ".join(f"{number} in {place}" for place, number in left.counts.items())
        raise ErasureIncomplete(
            f"of the user {user_id!r} there is again: {again}",
            hint="something wrote meanwhile: erase again when imports are done",
        )
    return ErasureReport(user_id=user_id, erased=found.counts, runs=client is not None, vacuumed=vacuum)


def _in_tables(stores: Stores, user_id: str) -> tuple[dict[str, pl.DataFrame], set[str]]:
    """Give the user's rows of each table that has some, and the user's devices."""
    tables = stores.tables
    devices = devices_in_ledger(stores.ledger, user_id)
    found: dict[str, pl.DataFrame] = {}
    for name in TABLES:
        mine = pl.col("user_id") == user_id
        if name == "members":  # a list of device ids
            mine = mine | pl.col("device_id").is_in(sorted(devices))
        rows = tables.collect(tables.scan(name).filter(mine.fill_null(False)))
        if name == "devices":
            devices |= set(rows.get_column("device_id"))
        if rows.height:
            found[name] = rows
    return found, devices


def _erase_files(stores: Stores, user_id: str, alias: str, rejects: Path) -> set[str]:
    """Erase from tables, snapshots and rejects; gives the user's devices."""
    tables, devices = _in_tables(stores, user_id)
    for name in TABLES:
        if name in tables:
            for key in ("user_id", "device_id") if name == "members" else ("user_id",):
                values = tables[name].get_column(key).drop_nulls().unique()
                stores.tables.remove(name, pl.DataFrame({key: values}), key)
    for path in _snapshots(stores, user_id):
        _replace(path, user_id, alias)
    for path, kept, _ in list(_rejects(rejects, user_id)):
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(kept)
        unfinished.replace(path)
    return devices


def _snapshots(stores: Stores, user_id: str) -> Iterator[Path]:
    """Give the snapshots that hold a user."""
    for path in sorted(stores.snapshots.glob("*.parquet")):
        if pl.scan_parquet(path).filter(user_id=user_id).select(pl.len()).collect().item():
            yield path


def _replace(path: Path, user_id: str, alias: str) -> None:
    """Put the alias in the user's place, which keeps everybody's: enrolment counts on the order."""
    unfinished = path.with_suffix(".unfinished")
    users = pl.read_parquet(path)
    renamed = pl.when(pl.col("user_id") == user_id).then(pl.lit(alias)).otherwise(pl.col("user_id"))
    users.with_columns(renamed.alias("user_id")).write_parquet(unfinished)
    unfinished.replace(path)


def _rejects(folder: Path, user_id: str) -> Iterator[tuple[Path, list[list[str]], list[list[str]]]]:
    """Give each file of rejected rows that names a user: the rows that stay, header included, and those that do."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        # Not the line, which may be a number that somebody is called by.
        naming = [row for row in rows if any(_names(cell, user_id) for cell in row[1:])]
        if naming:
            yield path, [row for row in rows if row not in naming], naming


def _names(text: str, user_id: str) -> bool:
    """Tell whether a rejected row, as it stands in its file, or the reason names a user: rather too often than not."""
    if user_id in map(str.strip, CELLS.split(text)):
        return True
    for delimiter in ",;\t":
        with suppress(csv.Error):
            if any(user_id == cell.strip() for row in csv.reader([text], delimiter=delimiter) for cell in row):
                return True
    with suppress(ValueError, RecursionError):
        return user_id in map(str.strip, _scalars(json.loads(text, parse_int=str, parse_float=str)))
    return False


def _scalars(value: Any) -> Iterator[str]:
    """Give all that a JSON value holds, as text."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _scalars(inner)
    elif value is not None:
        yield str(value)


async def _runs(client: Client, stores: Stores, user_id: str) -> list[FoundRun]:
    """Find the runs of a user by their workflow ids: with what stands for the user now, and with the plain id."""
    names = set(await asyncio.to_thread(stores.catalogue.names, "journey"))
    names |= await asyncio.to_thread(journeys_of, stores.ledger, user_id)
    found: dict[str, FoundRun] = {}
    for journey in sorted(names):
        for workflow_id in _workflow_ids(stores, journey, user_id):
            # Percent-encoded, neither holds a quote.
            query = f"WorkflowId = '{workflow_id}' OR WorkflowId STARTS_WITH '{workflow_id}/key/'"
            async for run in client.list_workflows(query):
                found[run.run_id] = FoundRun(
                    workflow_id=run.id,
                    run_id=run.run_id,
                    status=run.status.name.lower() if run.status is not None else "",
                    started_at=run.start_time,
                    closed_at=run.close_time,
                )
    return [run for run in found.values() if await _is_there(client, run)]


def _workflow_ids(stores: Stores, journey: str, user_id: str) -> set[str]:
    found = set()
    for name in (stores.ids.workflow_id, user_workflow_id):
        try:
            found.add(name(journey, user_id))
        except RefusedError:  # too long: nothing was ever started by it
            continue
    return found


async def _is_there(client: Client, run: FoundRun) -> bool:
    """Ask for a run itself: what lists runs learns later that one was deleted."""
    try:
        await client.get_workflow_handle(run.workflow_id, run_id=run.run_id).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _delete_runs(client: Client, runs: list[FoundRun]) -> None:
    """Terminate what is open, delete all, and wait until they are gone."""
    for run in runs:
        if run.status == WorkflowExecutionStatus.RUNNING.name.lower():
            try:
                await client.get_workflow_handle(run.workflow_id, run_id=run.run_id).terminate(reason=ERASED)
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:  # it ended meanwhile
                    raise
        execution = Execution(workflow_id=run.workflow_id, run_id=run.run_id)
        await client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
        )
    until = time.monotonic() + GONE_SECONDS
    for run in runs:
        while await _is_there(client, run) and time.monotonic() < until:
            await asyncio.sleep(0.1)


def _vacuum(stores: Stores) -> None:
    """Remove what older versions of the tables, and free pages of a SQLite file, still hold."""
    for name in TABLES:
        forget_versions(stores.tables, name)
    url = stores.ledger.database.url
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
