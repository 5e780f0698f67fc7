"""Arithmetic of capacity: from what one user costs to cores, bytes and actions for any number of users.

Example: `python -m scripts.capacity --users 100000000 --within 24h --pushed 0.3 --waiting 20000000`
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import click
from rich.text import Text

from scripts.output import json_option, people, print_json, print_table, wants_json
from workflows.conditions import duration


@dataclass(frozen=True)
class Cost:
    """What one user costs.

    The defaults were measured on one machine of 2 cores, shared with other work, which only makes them larger: 3,000
    users through entry, condition split and push, a third of them pushed to 1.4 devices; then 3,000 into a time delay;
    `journeys dev`, so the server's part includes its database, which was SQLite. tests/test_budget.py holds the bytes
    of history and the actions; the others are to be measured again on your machines. Pushes were ordinary activities,
    as they are to providers; through the outbox alone a user costs less.

    Attributes:
        worker_ms: CPU of the workers for a passage, in milliseconds.
        server_ms: CPU of Temporal and its database for a passage, in milliseconds.
        stored_kb: Disk of the server for a run, in kilobytes, until the namespace's retention is over: its history
            (3.0 KB for a pushed user, 2.1 KB for others), its state, its row in visibility, and all indexes.
        waiting_kb: Disk of the server for a run that waits, in kilobytes.
        ledger_kb: Disk of the ledger for a passage, in kilobytes; it is kept.
        actions_pushed: Actions as Temporal Cloud bills them, for a user who is pushed.
        actions_other: The same for a user who is not.
    """

    worker_ms: float = 16.3
    server_ms: float = 19.1
    stored_kb: float = 20.0
    waiting_kb: float = 21.5
    ledger_kb: float = 1.0
    actions_pushed: int = 3
    actions_other: int = 2


@dataclass(frozen=True)
class Need:
    """What a number of users needs.

    Attributes:
        users_per_second: Users who pass in a second.
        worker_cores: Cores of workers.
        server_cores: Cores of Temporal and its database.
        server_gb: Disk of the server for the runs it keeps: those of one retention, and those that wait.
        ledger_gb: Disk of the ledger for these users.
        actions: Actions of all these users.
        actions_per_second: Actions a second.
    """

    users_per_second: float
    worker_cores: int
    server_cores: int
    server_gb: float
    ledger_gb: float
    actions: float
    actions_per_second: float


def needed(users: int, seconds: float, *, pushed: float, waiting: int, busy: float, cost: Cost = Cost()) -> Need:
    """Work out what users need, each step in proportion.

    Args:
        users: Users who pass.
        seconds: In how long, at an even rate. The server keeps all of them: retention is at least as long.
        pushed: Share of them that is pushed, 0 to 1.
        waiting: Users who wait in journeys meanwhile.
        busy: How much of a core may be used, 0 to 1: the rest is for peaks and lost machines.
        cost: What one user costs.

    Returns:
        The needs.
    """
    rate = users / seconds
    actions = users * (pushed * cost.actions_pushed + (1 - pushed) * cost.actions_other)
    return Need(
        users_per_second=rate,
        worker_cores=math.ceil(rate * cost.worker_ms / 1_000 / busy),
        server_cores=math.ceil(rate * cost.server_ms / 1_000 / busy),
        server_gb=(users * cost.stored_kb + waiting * cost.waiting_kb) / 1e6,
        ledger_gb=(users + waiting) * cost.ledger_kb / 1e6,
        actions=actions,
        actions_per_second=actions / seconds,
    )


@click.command()
@click.option("--users", type=click.IntRange(min=1), help="Users who pass; left out: a table from 100,000 upwards.")
@click.option("--within", default="24h", show_default=True, help="In how long: 90s, 15m, 12h, 1d.")
@click.option("--pushed", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Share that is pushed.")
@click.option("--waiting", type=click.IntRange(min=0), default=0, show_default=True, help="Users who wait meanwhile.")
@click.option("--busy", type=click.FloatRange(0.01, 1), default=0.6, show_default=True, help="Share of a core to use.")
@json_option
def capacity(users: int | None, within: str, pushed: float, waiting: int, busy: float) -> None:
    """Work out cores, disk and actions for a number of users, from what one was measured to cost."""
    seconds, cost = duration(within).total_seconds(), Cost()
    if not seconds:
        raise click.UsageError("--within is longer than nothing")
    asked = [users] if users is not None else [10**power for power in range(5, 9)]
    found = {number: needed(number, seconds, pushed=pushed, waiting=waiting, busy=busy, cost=cost) for number in asked}
    if wants_json():
        rows = [{"users": number, **vars(need)} for number, need in found.items()]
        print_json({"cost": vars(cost), "within_seconds": seconds, "needs": rows})
        return
    console = people()
    console.print(f"a user: {cost.worker_ms} ms of a worker's core, {cost.server_ms} ms of the server's, ", end="")
    console.print(f"{cost.stored_kb} KB kept by the server, {cost.ledger_kb} KB by the ledger")
    console.print(f"a core at {busy:.0%}: {busy * 1_000 / cost.worker_ms:.0f} users a second of a worker's, ", end="")
    console.print(f"{busy * 1_000 / cost.server_ms:.0f} of the server's\n")
    headings = ("users", "users/s", "worker cores", "server cores", "server GB", "ledger GB", "actions/s")
    print_table(
        headings,
        [
            (
                number,
                Text(f"{need.users_per_second:,.1f}", justify="right"),
                need.worker_cores,
                need.server_cores,
                Text(f"{need.server_gb:,.0f}", justify="right"),
                Text(f"{need.ledger_gb:,.1f}", justify="right"),
                Text(f"{need.actions_per_second:,.0f}", justify="right"),
            )
            for number, need in found.items()
        ],
    )


if __name__ == "__main__":
    capacity()
