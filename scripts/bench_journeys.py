"""Measure journeys: `python -m scripts.bench_journeys [--json] [--users N] [--rounds N] [--without growth]`.

On the embedded server, started here, with the worker in this process as `journeys dev` has it. Every shape passes the
same number of users, in turn: A B C D A B C D ... Times are medians, and so are the ratios, taken round by round, so
that a machine whose speed drifts does not favour anybody. What grows with the audience is measured last, each size in
processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from activities.life import stats_of
from scripts.bench_audience import enrolment, waiting
from scripts.bench_growth import PASSING, growth
from scripts.bench_passing import BENCH_QUEUE, Bench, cost, opened, ours, pass_all
from scripts.output import people, print_table

EXTRA = 27
"""Elements that the longer journey has more than the win-back journey."""

MOST_UNBEGUN = 1_500
"""Runs that may be started and not begun before enrolment waits for the workers."""


def require_all_pushed(bench: Bench, name: str) -> None:
    """End the program unless everybody was pushed."""
    pushed = stats_of(bench.stores, name).elements["promo"].users
    if pushed != {"accepted": len(bench.users)}:
        raise SystemExit(f"not everybody was pushed: {pushed}")


async def run(users: int, rounds: int, wait_users: int) -> dict[str, Any]:
    """Measure all but what grows, and give the figures as JSON data."""
    figures: dict[str, Any] = {"users": users, "rounds": rounds, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder) / "shapes", users) as bench:
            figures["settings"] = {
                name: getattr(bench.settings, name) for name in ("pollers", "cached_workflows", "concurrent_activities")
            }
            for number in range(rounds):
                await one_round(bench, number)
                people(stderr=True).print(f"round {number + 1} of {rounds}: {told(bench, number)}", markup=False)
            figures["seconds"] = {shape: statistics.median(found) for shape, found in bench.seconds.items()}
            figures["users_per_second"] = {shape: users / found for shape, found in figures["seconds"].items()}
            figures["worker_cpu_ms"] = {
                shape: statistics.median(found) * 1000 / users for shape, found in bench.cpu.items()
            }
            figures["server_cpu_ms"] = {
                shape: statistics.median(found) * 1000 / users for shape, found in bench.server_cpu.items()
            }
            figures["ratios"] = {
                f"{shape} to {other}": statistics.median(
                    theirs / mine for mine, theirs in zip(bench.seconds[shape], bench.seconds[other], strict=True)
                )
                for shape, other in (("ours", "empty"), ("ours", "ordinary"), ("ours", "nine"))
            }
            figures["cost"] = await cost(bench, "ours-0")
            figures["cost_of_30_elements"] = await cost(bench, "long")
        figures["enrolment"] = await enrolment(Path(folder) / "enrolment", min(users, MOST_UNBEGUN), rounds)
        async with opened(Path(folder) / "waiting", wait_users) as bench:
            figures["waiting"] = {"users": wait_users} | await waiting(bench, "held", 10 + wait_users / 25)
    return figures


async def one_round(bench: Bench, number: int) -> None:
    """Pass all users once by each shape."""
    bench.save(f"ours-{number}")
    bench.save(f"ordinary-{number}")
    given = await bench.open(f"ordinary-{number}")
    empty, nine = (given.model_copy(update={"journey": f"{shape}-{number}"}) for shape in ("empty", "nine"))
    await bench.measure("empty", lambda: pass_all(bench, "Empty", empty, BENCH_QUEUE))
    await bench.measure("ours", lambda: ours(bench, f"ours-{number}"))
    require_all_pushed(bench, f"ours-{number}")
    await bench.measure("ordinary", lambda: pass_all(bench, "OrdinaryActivities", given, BENCH_QUEUE))
    await bench.measure("nine", lambda: pass_all(bench, "NineActivities", nine, BENCH_QUEUE))
    if number == 0:
        bench.save("long", more=EXTRA)
        await ours(bench, "long")


def told(bench: Bench, number: int) -> str:
    """Word one round's figures."""
    return ", ".join(f"{shape} {len(bench.users) / found[number]:.0f}/s" for shape, found in bench.seconds.items())


def machine() -> str:
    """Name the machine: processors and architecture."""
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def print_figures(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    print_table(
        ("shape", "seconds", "users/s", "worker CPU ms a user", "server CPU ms a user"),
        [
            (
                shape,
                f"{seconds:.2f}",
                f"{figures['users_per_second'][shape]:.1f}",
                f"{figures['worker_cpu_ms'][shape]:.1f}",
                f"{figures['server_cpu_ms'][shape]:.1f}",
            )
            for shape, seconds in figures["seconds"].items()
        ],
    )
    goals = {"ours to empty": 0.6, "ours to nine": 3.0}
    for name, ratio in figures["ratios"].items():
        goal = f" (goal {goals[name]:g})" if name in goals else ""
        people().print(f"{name}: {ratio:.2f}{goal}", markup=False)
    for name in ("cost", "cost_of_30_elements", "enrolment", "waiting"):
        said = ", ".join(f"{key} {value:.4g}" for key, value in figures[name].items())
        people().print(f"{name.replace('_', ' ')}: {said}", markup=False)
    for name in ("passing", "paging"):
        for size in figures.get("growth", {}).get(name, ()):
            said = ", ".join(f"{key} {value:.4g}" for key, value in size.items() if key != "users")
            people().print(f"{name} {size['users']:,} users: {said}", markup=False)
    if "growth" in figures:
        said = ", ".join(f"{key} {value:.2f}" for key, value in figures["growth"]["ratio"].items())
        people().print(f"{PASSING[-1]:,} users to {PASSING[0]:,}: {said} (goal 1.15)", markup=False)


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--users", type=int, default=1_000, help="users that each shape passes in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all shapes in turn")
    parser.add_argument("--waiting", type=int, default=5_000, help="users who wait, and wake in the same second")
    parser.add_argument("--without", choices=["growth"], help="leave out what grows: 15 minutes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    figures = asyncio.run(run(given.users, given.rounds, given.waiting))
    if given.without != "growth":
        figures["growth"] = growth()
    if given.json:
        print(json.dumps(figures))
    else:
        print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
