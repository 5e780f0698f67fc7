"""`python -m workers`: a production worker. It drains on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from workers.draining import Draining
from workers.health import Health, checks_of, health_endpoints
from workers.logs import set_up_logs
from workers.metrics import open_telemetry
from workers.serving import QUEUES, Role, serving, until_told_to_stop
from workers.settings import Settings, load_settings
from workflows.errors import JourneyError

log = logging.getLogger("journeys.worker")


async def serve(settings: Settings, role: Role) -> None:
    """Serve the queues of a role until told to stop.

    Args:
        settings: Where everything is.
        role: Which queues.

    Raises:
        NoServer: No Temporal server answers.
        StoreUnavailable: A store cannot be reached.
        RefusedError: A setting needs another one, a file or a package that is missing.
    """
    health, draining = Health(), Draining()
    telemetry = open_telemetry(export=settings.health_address is not None)
    async with health_endpoints(settings.health_address, health, telemetry.exporter) as endpoints:
        if endpoints is not None:
            log.info("health and metrics at %s", endpoints)
        served = serving(settings, role, telemetry, draining)
        async with served as (client, stores), checks_of(client, stores) as checks:
            health.serve(checks)
            log.info("serving %s of %s", ", ".join(QUEUES[role]), client.service_client.config.target_host)
            await until_told_to_stop()
            health.drain()
            log.info("draining, for %g s at most", settings.drain_seconds)
            draining.begin(settings.drain_seconds)
    log.info("stopped")


def main() -> int:
    """Parse the arguments, serve, and give the exit status: 0 stopped as told, 1 failed, 2 refused."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Serve journeys until told to stop.")
    parser.add_argument("--role", choices=list(QUEUES), default="all", help="which task queues to serve")
    role: Role = parser.parse_args().role
    set_up_logs(None)
    try:
        settings = load_settings()
        set_up_logs(settings)
        asyncio.run(serve(settings, role))
    except JourneyError as error:
        for fault in error.faults:
            log.error("%s", fault)
        return 2 if error.refused else 1
    except Exception:
        log.exception("the worker ended: this is a bug, please report it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
