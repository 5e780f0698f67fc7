"""Meters: what a process counts of its own work, beside what Temporal's SDK counts of its own.

They are the SDK's meters, so that one exporter serves both. No label names a user: labels are journeys, kinds,
branches, providers and outcomes, of which there are few.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.common import MetricHistogramFloat, MetricMeter


class Meters:
    """Everything that is counted.

    Counters count what was done: a retry after a crash may count a piece of work again. Numbers that have to add up are
    those of the ledger, see `journeys stats`.

    Args:
        meter: The runtime's meter; left out, nothing is counted.
    """

    def __init__(self, meter: MetricMeter = MetricMeter.noop) -> None:
        self.entered = meter.create_counter("journeys_users_entered", "Users admitted, by journey.")
        self.refused = meter.create_counter("journeys_users_refused", "Users refused at entry, by journey and reason.")
        self.outcomes = meter.create_counter("journeys_outcomes", "Visits to elements, by kind and branch taken.")
        self.pushes = meter.create_counter("journeys_pushes", "Pushes to devices, by provider and outcome.")
        self.evaluations = meter.create_histogram_float(
            "journeys_evaluation_seconds", "Time that one evaluation of a segment took, in seconds."
        )
        self.memberships = meter.create_counter(
            "journeys_membership_lookups", "Questions to the memberships kept: answer is hit, or miss."
        )
        self.membership_bytes = meter.create_gauge(
            "journeys_membership_bytes", "Memory of the memberships kept, in bytes."
        )
        self.column_bytes = meter.create_gauge("journeys_column_bytes", "Memory of the columns kept, in bytes.")
        self.commit_requests = meter.create_histogram(
            "journeys_ledger_commit_requests", "Requests that shared one commit of the ledger."
        )
        self.commits = meter.create_histogram_float(
            "journeys_ledger_commit_seconds", "Time that one commit of the ledger took, in seconds."
        )
        self.backlog = meter.create_gauge(
            "journeys_enrolment_backlog", "Runs of a journey started and not begun, when its enrolment last looked."
        )


BUCKETS: dict[str, list[float]] = {
    "journeys_evaluation_seconds": [0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800],
    "journeys_ledger_commit_requests": [1, 2, 5, 10, 20, 50, 100, 200, 500],
    "journeys_ledger_commit_seconds": [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5],
}
"""Upper bounds of each histogram's buckets, in the histogram's unit."""


@contextmanager
def timed(histogram: MetricHistogramFloat) -> Iterator[None]:
    """Record how many seconds the body takes, also when it fails."""
    began = time.perf_counter()
    try:
        yield
    finally:
        histogram.record(time.perf_counter() - began)
