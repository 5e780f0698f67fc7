"""Metrics: ours and those of Temporal's SDK, by one exporter of a process."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.meters import BUCKETS, Meters
from workflows.contracts import Outcome

PORT_TRIES = 5
"""How often another port is tried when the one found free is taken in the instant before it is used."""


@dataclass(frozen=True)
class Telemetry:
    """What a process tells of itself.

    Attributes:
        runtime: The SDK's runtime, which clients are connected with.
        meters: Our counts.
        exporter: Where the SDK answers scrapes, on loopback; null where nothing is exported.
    """

    runtime: Runtime
    meters: Meters
    exporter: str | None


def open_telemetry(*, export: bool) -> Telemetry:
    """Make the runtime of a process, once: its logs go to Python's, its metrics to an exporter.

    Args:
        export: Whether metrics are exported. The exporter answers on a port of loopback that was free; it is passed on
            by the endpoint `/metrics`, see `workers.health`.

    Returns:
        The runtime and what goes with it.
    """
    forwarding = LogForwardingConfig(
        logger=logging.getLogger("temporalio.core"), append_target_to_name=False, prepend_target_on_message=False
    )
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    if not export:
        return Telemetry(Runtime(telemetry=TelemetryConfig(logging=logs)), Meters(), None)
    for tries_left in reversed(range(PORT_TRIES)):
        address = f"127.0.0.1:{_free_port()}"
        metrics = PrometheusConfig(
            bind_address=address,
            counters_total_suffix=True,
            durations_as_seconds=True,
            histogram_bucket_overrides=BUCKETS,
        )
        config = TelemetryConfig(logging=logs, metrics=metrics, attach_service_name=False)
        try:
            runtime = Runtime(telemetry=config)
        except ValueError:  # another process took the port
            if not tries_left:
                raise
            continue
        return Telemetry(runtime, Meters(runtime.metric_meter), address)
    raise AssertionError("the last try returns or raises")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class OutcomeCounting(Interceptor):
    """Counts what elements did for users, by kind and branch.

    Args:
        meters: Where it is counted.
    """

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Stand before every activity."""
        return _Counting(next, self._meters)


class _Counting(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, meters: Meters) -> None:
        super().__init__(next)
        self._meters = meters

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        answer = await super().execute_activity(input)
        if isinstance(answer, Outcome) and answer.branch:  # without a branch the user stays, and is asked again
            self._meters.outcomes.add(1, {"kind": activity.info().activity_type, "branch": answer.branch})
        return answer
