"""One SQL database, SQLite or PostgreSQL, with one writer per process that commits many requests at once.

SQLite allows one writer at a time and pays one disk flush a commit, so writes are queued and committed in groups:
400,000 rows a second against 6,700 single commits, measured. A caller has its answer only after the commit.

**Reading and then writing is safe** on both, for what was read is still true when the write is committed:

- SQLite: `BEGIN IMMEDIATE` lets one transaction write at a time, of all processes.
- PostgreSQL: a transaction first takes advisory locks (its manual, "Explicit Locking"), which end with it. By default
  that is one lock on everything, so that it is as alone as under SQLite. Where all that a request reads and writes
  belongs to some users, it names them as `keys`: then it waits for the same users only, and hosts write side by side.
  All locks of a group are taken in one order, so two groups never wait for each other. The isolation is READ COMMITTED
  on purpose: each statement sees what was committed before it, and so all that the holder before us wrote. A snapshot
  as of the transaction's begin, which is before the wait for the lock, would miss just that.

**What grows:** a passage and some steps for each user who enters, a push for each device, a refusal for each user who
is refused; about 0.5 KB for a passage with one step, indexes included. Nothing is taken away, since re-entry rules,
frequency caps and `journeys explain` ask about the past. All that a worker asks while users pass is found by an index,
so its cost does not grow with the tables.
"""

from __future__ import annotations

import asyncio
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from activities.meters import Meters, timed
from activities.records import migrations
from workflows.errors import JourneyError, RefusedError, StoreUnavailable

METADATA = MetaData()
"""All tables of catalogue and ledger."""

GROUP_LIMIT = 500
"""Most requests that share one commit."""
BUSY_SECONDS = 1.0
"""How long SQLite waits for another process's commit: shorter than a local activity's attempt."""
LOCK_SECONDS = 5.0
"""How long PostgreSQL waits for another host's commit, which may be a whole group's."""
MIGRATION_SECONDS = 60.0
"""How long a process waits while another one brings the tables up to date."""
CONNECT_SECONDS = 5
"""How long PostgreSQL may take to answer a new connection."""
IDLE_SECONDS = 10
"""After how long without a statement PostgreSQL ends a transaction: a frozen host must not hold up the others."""
POOL_SIZE, POOL_LIMIT = 4, 16
"""Connections to PostgreSQL that a process keeps, and that it has at most. One of them writes."""
KEYS_LIMIT = 500
"""Most keys that a group locks one by one; with more it locks everything. PostgreSQL has room for 6,400 locks as it is
delivered (`max_locks_per_transaction` times `max_connections`), for all hosts together."""
CONFLICT_TRIES = 4
"""How often a group is tried that PostgreSQL ended in favour of another."""
CONFLICTS = {"40001", "40P01"}
"""PostgreSQL's codes for that: serialization_failure and deadlock_detected (its manual, appendix "Error Codes")."""
TOO_LARGE = "54"
"""How PostgreSQL's codes begin for what is over one of its limits, such as a text that is too long for an index."""
OUTAGES = (OperationalError, InterfaceError, PoolTimeout)
"""Errors that say nothing of the request that met them."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Request:
    """One piece of work for the writer: `keys` is None where it may touch anything."""

    work: Callable[[Connection], Any]
    keys: frozenset[str] | None
    future: Future[Any] = field(default_factory=Future)


class Database:
    """The database of catalogue and ledger. Safe to use from several threads.

    Args:
        url: A SQLAlchemy address: `sqlite:///ledger.db`, whose folder is created, or
            `postgresql://user:password@host/name`, with any parameter of libpq behind a `?`.
        meters: Counts commits, and what is written down by them.

    Raises:
        RefusedError: The address names neither.
    """

    def __init__(self, url: str, meters: Meters | None = None) -> None:
        self.url = url
        self.meters = meters or Meters()
        self._engine = _engine(url)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._reading, self._writing = _reading(self._engine), _writing(self._engine)
        self._insert: Any = sqlite.insert if self._is_sqlite else postgresql.insert
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False

    def create(self) -> None:
        """Bring the tables to this program's revision: from nothing, or from those of an earlier one.

        Several processes may do so at once: one works, the others wait for it. When nothing is to do, this costs one
        query, and no right to change tables.

        Raises:
            RefusedError: The tables are a later program's.
            StoreUnavailable: The database cannot be reached or written.
        """
        present, wanted = self.read(migrations.revision), migrations.newest()
        if present is not None and present > wanted:
            raise RefusedError(
                f"the ledger {self._place()} has the tables of revision {present}, and this program knows them up to "
                f"{wanted}: install the version of this program that the other workers have",
                code="later-ledger",
            )
        if present == wanted:
            return
        engine = _engine(self.url, MIGRATION_SECONDS)
        try:
            with _writing(engine).begin() as connection:
                self._lock(connection, None)
                migrations.upgrade(connection)
        except DBAPIError as error:
            raise self._unavailable(error) from error
        finally:
            engine.dispose()

    def insert(self, table: Table) -> Any:
        """Start an INSERT that can say ON CONFLICT, in this database's dialect."""
        return self._insert(table)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Read in one transaction, which sees one state.

        Args:
            work: Reads by the connection it is given.

        Returns:
            What the work returned.

        Raises:
            StoreUnavailable: The database cannot be reached. Temporal retries.
        """
        try:
            with self._reading.connect() as connection:
                return work(connection)
        except (DBAPIError, PoolTimeout) as error:
            raise self._unavailable(error) from error

    async def write(self, work: Callable[[Connection], Result], keys: Iterable[str] | None = None) -> Result:
        """Write, together with whatever else is waiting, and return after the commit.

        Args:
            work: Reads and writes by the connection it is given. It may be called again when its group failed, so it
                must touch nothing but the database. When the connection broke at the commit, nobody knows whether it
                was carried out: so it must do no harm to ask again.
            keys: The users to whom all belongs that the work reads and writes; None where it may be anything.

        Returns:
            What the work returned.

        Raises:
            RefusedError: A value is none that the database can hold.
            StoreUnavailable: The database cannot be written. Temporal retries.
        """
        return await asyncio.wrap_future(self._submit(work, keys))

    def write_now(self, work: Callable[[Connection], Result], keys: Iterable[str] | None = None) -> Result:
        """Write as `write` does, from a thread that may block."""
        return self._submit(work, keys).result()

    def close(self) -> None:
        """Commit what is waiting and let go of the database."""
        with self._starting:
            self._closed = True
            if self._writer is not None:
                self._requests.put(None)
                self._writer.join()
        self._engine.dispose()

    def _submit(self, work: Callable[[Connection], Result], keys: Iterable[str] | None) -> Future[Result]:
        """Queue one request for the writer, which starts with the first."""
        request = _Request(work, None if keys is None else frozenset(keys))
        with self._starting:
            if self._closed:
                raise StoreUnavailable(f"the ledger {self._place()} is closed: this worker is stopping")
            if self._writer is None:
                self._writer = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)
                self._writer.start()
            self._requests.put(request)
        return request.future

    def _serve(self) -> None:
        """Commit groups of requests until told to stop."""
        stopping = False
        while not stopping:
            group: list[_Request] = []
            request = self._requests.get()
            while True:
                if request is None:
                    stopping = True
                    break
                group.append(request)
                if len(group) >= GROUP_LIMIT:
                    break
                try:
                    request = self._requests.get_nowait()
                except queue.Empty:
                    break
            # A caller who gave up while waiting must not be written for.
            group = [one for one in group if one.future.set_running_or_notify_cancel()]
            if group and not self._commit(group):
                # One bad request must not fail its neighbours, so each has a transaction of its own.
                for single in group:
                    self._commit([single])

    def _commit(self, group: list[_Request]) -> bool:
        """Run a group in one transaction. A group of one is told its failure; a larger one is left to be retried."""
        try:
            with timed(self.meters.commits):
                results = self._transact(group)
        except BaseException as error:
            known = self._unavailable(error) if isinstance(error, DBAPIError | PoolTimeout) else error
            # An outage fails all alike: trying each alone would only make them wait for it in turn.
            if len(group) == 1 or (isinstance(error, OUTAGES) and isinstance(known, StoreUnavailable)):
                for request in group:
                    request.future.set_exception(known)
                return True
            return False
        self.meters.commit_requests.record(len(group))
        for request, result in zip(group, results, strict=True):
            request.future.set_result(result)
        return True

    def _transact(self, group: list[_Request]) -> list[Any]:
        """Run a group in one transaction, again where PostgreSQL ended it in favour of another."""
        keys: set[str] | None = set()
        for request in group:
            keys = None if keys is None or request.keys is None else keys | request.keys
        for attempt in range(1, CONFLICT_TRIES + 1):
            try:
                with self._writing.begin() as connection:
                    self._lock(connection, keys)
                    return [request.work(connection) for request in group]
            except OperationalError as error:
                if attempt == CONFLICT_TRIES or _code_of(error) not in CONFLICTS:
                    raise
                time.sleep(random.uniform(0, 0.02) * attempt)  # noqa: S311  spreads tries, guards nothing
        raise AssertionError("unreachable")

    def _lock(self, connection: Connection, keys: set[str] | None) -> None:
        """Wait on PostgreSQL until nobody else writes what belongs to the keys, or anything at all where they are None.

        Who has keys shares the lock on everything with others who have; who has none waits for all of them.
        """
        if self._is_sqlite:
            return
        if keys is None or len(keys) > KEYS_LIMIT:
            connection.execute(LOCK_ALL, {"all": EVERYTHING})
        else:
            connection.execute(LOCK_KEYS, {"locks": [EVERYTHING, *sorted({_lock_of(key) for key in keys})]})

    def _unavailable(self, error: DBAPIError | PoolTimeout) -> JourneyError:
        """Word a failure of the database."""
        said = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        said = said.partition(" DETAIL: ")[0]  # PostgreSQL quotes the row there
        if isinstance(error, DataError) or _code_of(error).startswith(TOO_LARGE):
            return RefusedError(f"the ledger {self._place()} cannot hold a value: {said}", code="wrong-value")
        hint = (
            "see that the disk has room, and that no other program holds the file"
            if self._is_sqlite
            else "see that PostgreSQL runs, that this machine may connect to it, and that its disk has room"
        )
        return StoreUnavailable(
            f"the ledger {self._place()} cannot be used: {said}. Work waits and goes on when it is back; {hint}"
        )

    def _place(self) -> str:
        """The database's address without its password."""
        url = self._engine.url
        return repr(url.set(query={}).render_as_string(hide_password=True))


def _code_of(error: DBAPIError | PoolTimeout) -> str:
    """Give PostgreSQL's code of an error; an empty text where there is none."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _lock_of(key: str) -> int:
    """Name the advisory lock of a key: a signed number of 64 bits. Two keys that share one only wait for each other."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


EVERYTHING = _lock_of("")
"""The lock that everybody takes: shared by who has keys, alone by who has none."""
LOCK_ALL = text("SELECT pg_advisory_xact_lock(:all)")
LOCK_KEYS = text(
    "SELECT CASE WHEN number = 1 THEN pg_advisory_xact_lock_shared(lock) ELSE pg_advisory_xact_lock(lock) END "
    "FROM unnest(CAST(:locks AS bigint[])) WITH ORDINALITY AS wanted (lock, number)"
)
"""Takes locks in the order given, in one round trip."""


def _reading(engine: Engine) -> Engine:
    """Give the engine for transactions that read, and see one state whatever is written meanwhile."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _writing(engine: Engine) -> Engine:
    """Give the engine for transactions that write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(writes=True)
    # SQLAlchemy keeps the number of rows that an INSERT wrote only when told, and first-answer-wins asks for it.
    return engine.execution_options(isolation_level="READ COMMITTED", preserve_rowcount=True)


def _engine(address: str, patience: float | None = None) -> Engine:
    """Open a database as its kind wants it.

    Args:
        address: A SQLAlchemy address.
        patience: How long to wait for others who write, seconds; the kind's own when None.
    """
    try:
        url = make_url(address)
        if url.get_backend_name() in ("postgresql", "postgres"):
            return _postgresql(url, patience or LOCK_SECONDS)
        if url.get_backend_name() != "sqlite":
            raise ArgumentError(f"{url.get_backend_name()} is not supported")
    except (ArgumentError, ImportError, ValueError) as error:  # the address is not quoted: it may hold a password
        message = f"the address of the ledger names no database that can be opened here: {type(error).__name__}"
        hint = "write it as in postgresql://user@host/name or sqlite:///file.db"
        raise RefusedError(message, code="wrong-address", hint=hint) from None
    return _sqlite(address, patience or BUSY_SECONDS)


def _postgresql(url: URL, patience: float) -> Engine:
    """Open a PostgreSQL database by psycopg. What the address itself says about a parameter wins."""
    parameters = {
        "application_name": "journeys",
        "connect_timeout": str(CONNECT_SECONDS),
        "tcp_user_timeout": "10000",  # milliseconds until data that nobody acknowledges ends a connection
        "options": f"-c lock_timeout={patience * 1000:.0f}ms -c idle_in_transaction_session_timeout={IDLE_SECONDS}s",
    }
    return create_engine(
        url.set(drivername="postgresql+psycopg", query={**parameters, **url.query}),
        pool_pre_ping=True,
        hide_parameters=True,  # errors are logged, and parameters hold users' ids
        pool_size=POOL_SIZE,
        max_overflow=POOL_LIMIT - POOL_SIZE,
        pool_timeout=CONNECT_SECONDS,
    )


def _sqlite(address: str, patience: float) -> Engine:
    """Open a SQLite file, in WAL mode."""
    path = address.removeprefix("sqlite:///")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the folder of the ledger {path!r} cannot be made: {error.strerror}") from error
    timeouts = {"timeout": patience, "check_same_thread": False}
    engine = create_engine(address, connect_args=timeouts, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: a deferred one fails at once with "database is locked".
        connection.isolation_level = None
        until = time.monotonic() + patience
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                # Who changes the mode of a new file meets others who do so, for whom SQLite does not wait by itself.
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine
