"""Health: whether a process lives, whether its worker can work, and its metrics, each by HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal, TypeAlias

import aiohttp
from aiohttp import web
from temporalio.client import Client
from temporalio.service import RPCError

from activities.stores import Stores
from workflows.errors import JourneyError, RefusedError

CHECK_SECONDS = 3.0
"""How long one part may take to answer: shorter than a probe's usual patience of several tries."""
KEPT_SECONDS = 1.0
"""How long an answer is given again, so that asking often costs the parts nothing."""

State: TypeAlias = Literal["starting", "serving", "draining"]
Check: TypeAlias = Callable[[], Awaitable[None]]
"""Raises where a part cannot be used."""


class Health:
    """The state of one worker process."""

    def __init__(self) -> None:
        self.state: State = "starting"
        self._checks: Mapping[str, Check] = {}
        self._asking = asyncio.Lock()
        self._found: dict[str, str] = {}
        self._found_at = -KEPT_SECONDS

    def serve(self, checks: Mapping[str, Check]) -> None:
        """Say that the worker serves, and how its parts are asked from now on."""
        self._checks, self.state = checks, "serving"

    def drain(self) -> None:
        """Say that the worker stops: it takes nothing more, and is not ready any more."""
        self.state = "draining"

    async def faults(self) -> dict[str, str]:
        """Ask every part at once.

        Returns:
            Part to what is wrong with it; empty when all can be used.
        """
        async with self._asking:
            if time.monotonic() - self._found_at >= KEPT_SECONDS:
                said = await asyncio.gather(*map(_ask, self._checks.values()))
                self._found = {name: fault for name, fault in zip(self._checks, said, strict=True) if fault}
                self._found_at = time.monotonic()
            return self._found


async def _ask(check: Check) -> str:
    try:
        await asyncio.wait_for(check(), CHECK_SECONDS)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except JourneyError as error:
        return error.message
    except (RPCError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


@asynccontextmanager
async def checks_of(client: Client, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
    """Give how the parts are asked that a worker cannot do without.

    Args:
        client: Reaches Temporal.
        stores: Tables and ledger.

    Yields:
        Part to check. Stores are asked in threads of their own, so that evaluations do not keep them waiting.
    """
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(2, thread_name_prefix="health")

    async def temporal() -> None:
        await client.service_client.check_health()

    async def ledger() -> None:
        await loop.run_in_executor(threads, stores.ledger.life, "")

    async def tables() -> None:
        await loop.run_in_executor(threads, stores.tables.versions)

    try:
        yield {"temporal": temporal, "ledger": ledger, "tables": tables}
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def health_endpoints(address: str | None, health: Health, exporter: str | None) -> AsyncIterator[str | None]:
    """Answer `/healthz`, `/readyz` and `/metrics` while the body runs.

    `/healthz` answers 200 while the process can answer at all. `/readyz` answers 200 while the worker serves and all
    its parts can be used, else 503; both with `{"state", "faults": {part: message}}`. `/metrics` is Prometheus' text.

    Args:
        address: Host and port, an IPv6 host in brackets; port 0 for a free one; null for no endpoints.
        health: What is told.
        exporter: Host and port of the SDK's exporter.

    Yields:
        The address they answer at, such as `http://127.0.0.1:9464`; null without.

    Raises:
        RefusedError: The address is taken, or is not one of this machine.
    """
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    async with aiohttp.ClientSession() as session:
        app = web.Application()
        app.router.add_get("/healthz", partial(_healthz, health))
        app.router.add_get("/readyz", partial(_readyz, health))
        app.router.add_get("/metrics", partial(_metrics, session, exporter))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host.strip("[]"), int(port))
            try:
                await site.start()
            except OSError as error:
                raise RefusedError(
                    f"JOURNEYS_HEALTH_ADDRESS is {address!r}, where nothing can be served: {error.strerror}",
                    code="wrong-address",
                    hint="give each worker of a machine a port of its own, or port 0 for any",
                ) from error
            yield f"http://{host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def _healthz(health: Health, _request: web.Request) -> web.Response:
    return web.json_response({"state": health.state, "faults": {}})


async def _readyz(health: Health, _request: web.Request) -> web.Response:
    faults = await health.faults() if health.state == "serving" else {}
    ready = health.state == "serving" and not faults
    return web.json_response({"state": health.state, "faults": faults}, status=200 if ready else 503)


async def _metrics(session: aiohttp.ClientSession, exporter: str | None, _request: web.Request) -> web.Response:
    async with session.get(f"http://{exporter}/metrics") as answer:
        return web.Response(text=await answer.text(), content_type="text/plain", charset="utf-8")
