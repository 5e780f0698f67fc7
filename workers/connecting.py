"""Reaching the Temporal server, and preparing it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, Interceptor
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from workers.codec import JourneysCodec, KeyMissing, open_codec
from workers.settings import Settings, temporal_environment
from workflows.contracts import SEARCH_ATTRIBUTES
from workflows.errors import JourneyError, RefusedError

if TYPE_CHECKING:
    from workers.plugin import JourneysPlugin

CONNECT_SECONDS = 5.0

OPEN_RUNS = "ExecutionStatus = 'Running' AND WorkflowType IN ('Journey', 'UserJourney')"
RUNS_LOOKED_AT = 10
"""Of the newest open runs: whoever has been given the wrong keys can read none of them."""

log = logging.getLogger("journeys.worker")


class NoServer(JourneyError):
    """No Temporal server answers."""

    code = "no-server"


class EmbeddedServer(BaseModel):
    """The embedded server that `journeys dev` left running, as written in the home."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    address: str
    """Host and port of its front end."""
    ui: str
    """Address of Temporal's UI."""
    pid: int
    """The server's process id."""


def embedded_file(settings: Settings) -> Path:
    """Say where the running embedded server is written down."""
    return settings.home / "server.json"


def embedded_server(settings: Settings) -> EmbeddedServer | None:
    """Give the embedded server of this home, as it was written down; it may be gone since."""
    try:
        return EmbeddedServer.model_validate(json.loads(embedded_file(settings).read_text()))
    except (OSError, ValueError, ValidationError):
        return None


def connect_config(settings: Settings) -> dict[str, Any]:
    """Read Temporal's own environment configuration: address, namespace, TLS, API key, from `TEMPORAL_*` or its file.

    Args:
        settings: Whose file may hold `TEMPORAL_*` too.

    Returns:
        Arguments of `Client.connect`.

    Raises:
        RefusedError: A file or profile that it names cannot be read.
    """
    try:
        return dict(ClientConfig.load_client_connect_config(override_env_vars=temporal_environment(settings)))
    except (RuntimeError, ValueError, OSError) as error:
        raise RefusedError(
            f"Temporal's environment configuration cannot be used: {error}",
            code="wrong-temporal-configuration",
            hint='see the variables TEMPORAL_*, and Temporal\'s page "Environment configuration"',
        ) from error


async def connect(
    settings: Settings,
    plugin: JourneysPlugin | None = None,
    *,
    runtime: Runtime | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> Client:
    """Connect as Temporal's own environment configuration says, else to the embedded server of this home.

    Args:
        settings: Where the home is.
        plugin: The plugin of a worker; null for a client that only starts and asks.
        runtime: The SDK's runtime; null for the default one.
        interceptors: Stand before the client's calls, and before the work of its workers.

    Returns:
        A client with the journeys plugin.

    Raises:
        NoServer: Nothing answers there.
        RefusedError: The file of payload keys cannot be used.
    """
    # Brings every activity with the libraries of all providers: commands that do not connect start without.
    from workers.plugin import JourneysPlugin

    config = connect_config(settings)
    embedded = embedded_server(settings)
    source = "Temporal's environment configuration says so"
    if "target_host" not in config:
        if embedded is None:
            raise NoServer(
                f"no Temporal server is known: none runs for {str(settings.home)!r}, and TEMPORAL_ADDRESS is not set",
                hint="start one with `journeys dev`, or set TEMPORAL_ADDRESS",
            )
        config["target_host"] = embedded.address
        source = "`journeys dev` left this address"
    address = config["target_host"]
    plugins = [plugin or JourneysPlugin(codec=open_codec(settings))]
    config |= {"plugins": plugins, "interceptors": interceptors}
    if runtime is not None:
        config["runtime"] = runtime
    try:
        return await asyncio.wait_for(Client.connect(**config), CONNECT_SECONDS)
    except (RuntimeError, RPCError, TimeoutError, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else "it did not answer in time"
        inner = re.search(r'message: "([^"]+)"', said)  # of what the client's layers wrap around each other
        reason = inner.group(1) if inner else said
        raise NoServer(
            f"no Temporal server answers at {address!r} ({source}): {reason[:200]}",
            hint="start one with `journeys dev`, or set TEMPORAL_ADDRESS",
        ) from error


async def missing_search_attributes(client: Client) -> list[str]:
    """List the search attributes that the namespace lacks.

    Raises:
        RPCError: The server refused.
    """
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = await client.operator_service.list_search_attributes(request)
    return [key.name for key in SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]


async def create_search_attributes(client: Client) -> None:
    """Create the search attributes that the namespace lacks.

    Raises:
        NoServer: The server refused, for want of rights for instance.
    """
    service, namespace = client.operator_service, client.namespace
    try:
        missing = await missing_search_attributes(client)
        if not missing:
            return
        await service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=namespace,
                search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
            )
        )
    except RPCError as error:
        if error.status == RPCStatusCode.ALREADY_EXISTS:
            return
        names = ", ".join(key.name for key in SEARCH_ATTRIBUTES)
        raise NoServer(
            f"the search attributes {names} cannot be created in {namespace!r}: {error.message}",
            hint="create them yourself, each of type Keyword: temporal operator search-attribute create",
        ) from error


async def unreadable_runs(client: Client, codec: JourneysCodec | None) -> KeyMissing | None:
    """Look whether a process can read the runs that wait for it, before it takes their tasks and fails them.

    Args:
        client: Connected to the namespace; its own codec plays no part.
        codec: The codec of the process; null for none.

    Returns:
        The key that is missing, where none of the newest open runs can be read; null where one can, or there is none.
        A single run that somebody else has encrypted keeps nobody from working.

    Raises:
        RPCError: The server refused.
    """
    missing: KeyMissing | None = None
    async for run in client.list_workflows(OPEN_RUNS, limit=RUNS_LOOKED_AT):
        # Raw: these events are as the server keeps them.
        events = client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events(page_size=1)
        started = (await anext(events)).workflow_execution_started_event_attributes
        try:
            await (codec or JourneysCodec(None)).decode(started.input.payloads)
        except KeyMissing as error:
            missing = missing or error
        else:
            return None
    return missing


async def require_readable_runs(client: Client, codec: JourneysCodec | None) -> None:
    """Keep a worker without the keys of the runs from starting.

    Raises:
        KeyMissing: None of the newest open runs can be read; says which key is missing, and where to add it.
    """
    try:
        missing = await unreadable_runs(client, codec)
    except RPCError as error:
        # A server that is not ready, or a run that ended meanwhile: the tasks themselves will show.
        log.warning("whether the open runs can be read is not known: %s", error.message)
        return
    if missing is not None:
        raise missing
