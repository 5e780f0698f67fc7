"""`python -m workers`: a production worker. It drains on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from workers.serving import QUEUES, Role, serving, until_told_to_stop
from workers.settings import load_settings
from workflows.errors import JourneyError

log = logging.getLogger("journeys.worker")


async def serve(role: Role) -> None:
    """Serve the queues of a role until told to stop.

    Args:
        role: Which queues.

    Raises:
        NoServer: No Temporal server answers.
        StoreUnavailable: A store cannot be reached.
    """
    settings = load_settings()
    async with serving(settings, role) as (client, _):
        log.info("serving %s of %s", ", ".join(QUEUES[role]), client.service_client.config.target_host)
        await until_told_to_stop()
        log.info("draining, for %g s at most", settings.drain_seconds)
    log.info("stopped")


def main() -> int:
    """Parse the arguments, serve, and give the exit status: 0 stopped as told, 1 failed, 2 refused."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Serve journeys until told to stop.")
    parser.add_argument("--role", choices=list(QUEUES), default="all", help="which task queues to serve")
    role: Role = parser.parse_args().role
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(serve(role))
    except JourneyError as error:
        for fault in error.faults:
            log.error("%s", fault)
        return 2 if error.refused else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
