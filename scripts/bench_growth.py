"""Measure one audience in a process of its own, for `bench_journeys`: `python -m scripts.bench_growth passing N`.

`passing N` has N users pass the win-back journey, server and worker started here. `paging N` evaluates an audience of N
and admits it page by page as enrolment does, with the starts left out, which no laptop's server would survive in the
time that a benchmark may take. Either prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from temporalio.testing import ActivityEnvironment

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.enrolment import EnrolmentActivities
from activities.noticing import Notices
from activities.records.admissions import Arrival
from scripts.bench_passing import opened, ours, server_seconds
from workers.opening import open_stores
from workers.settings import Settings
from workflows.contracts import EnrolmentRequest

MEGABYTE = 1 << 20

PASSING = (1_000, 10_000, 20_000)
"""Sizes of the audiences that pass whole."""
PAGING = (1_000, 100_000, 1_000_000)
"""Sizes of the audiences that are evaluated and admitted, with the starts left out."""


def peak_bytes() -> int:
    """Give the most memory that this process ever held; what its parent held does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def command_of(what: str, users: int) -> list[str]:
    """Give the command that measures one audience."""
    return [sys.executable, "-m", "scripts.bench_growth", what, str(users)]


def in_a_process(what: str, users: int) -> dict[str, float]:
    """Measure one audience in a process of its own.

    Args:
        what: `passing` or `paging`.
        users: How many.

    Returns:
        What the process printed.
    """
    printed = subprocess.check_output(command_of(what, users), text=True)  # noqa: S603  this very program
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def growth() -> dict[str, Any]:
    """Take what one user costs at several sizes of the audience, and the worker's peak memory.

    Returns:
        `passing` and `paging`, a list of figures each; and the `ratio` of the cost at the largest audience that passed
        to that at the smallest, by the clock and by processor time. The smallest passes before the others and after
        them: a machine whose speed drifts would seem to grow.
    """
    passed = [in_a_process("passing", users) for users in (*PASSING, PASSING[0])]
    costs = {
        "seconds": [run["seconds"] for run in passed],
        "processor": [run["worker_ms"] + run["server_ms"] for run in passed],
    }
    return {
        "passing": passed,
        "paging": [in_a_process("paging", users) for users in PAGING],
        "ratio": {name: 2 * found[-2] / (found[0] + found[-1]) for name, found in costs.items()},
    }


async def passing(home: Path, users: int) -> dict[str, Any]:
    """Have users pass the win-back journey.

    Returns:
        For each user `seconds`, `worker_ms` and `server_ms` of processor time; and the worker's `peak_mb`.
    """
    async with opened(home, users) as bench:
        bench.save("ours")
        began, worker, server = time.perf_counter(), time.process_time(), server_seconds()
        await ours(bench, "ours")
        return {
            "users": users,
            "seconds": (time.perf_counter() - began) / users,
            "worker_ms": (time.process_time() - worker) * 1000 / users,
            "server_ms": (server_seconds() - server) * 1000 / users,
            "peak_mb": peak_bytes() / MEGABYTE,
        }


async def paging(home: Path, users: int) -> dict[str, Any]:
    """Evaluate an audience, keep it, and admit it page by page.

    Returns:
        The `seconds` of evaluating and of all pages, and the process's `peak_mb`.
    """
    with open_stores(Settings(home=home)) as stores:
        text = (
            "journey: paged\nentries:\n  start: {kind: audience-entry, audience: {everyone: true}, next: done}\n"
            "elements:\n  done: {kind: exit}\n"
        )
        now = datetime.now(UTC)
        save_documents(stores, read_text(text, "bench.yaml"), now)
        saved = stores.catalogue.find("journey", "paged")
        await stores.ledger.open_journey("paged", saved.version, saved.digest, "bench", now)
        request = EnrolmentRequest(
            enrolment="bench", journey="paged", version=saved.version, digest=saved.digest, entry="start", now=now
        )
        activities = EnrolmentActivities(stores, Notices(stores))
        began = time.perf_counter()
        audience = await ActivityEnvironment().run(activities.evaluate_audience, request)
        evaluated = time.perf_counter()
        arrival = Arrival("bench", "paged", saved.version, "start", "never", now, steady=True)
        cursor = 0
        for page in activities.pages("bench", 0, audience.users):
            admissions = await stores.ledger.admit(arrival, page)
            cursor += len(page)
            await stores.ledger.page_done("bench", [one.passage for one in admissions], cursor)
        if stores.ledger.enrolled("bench") != (users, 0):
            raise SystemExit(f"not everybody was admitted: {stores.ledger.enrolled('bench')}")
        return {
            "users": users,
            "evaluating_seconds": evaluated - began,
            "paging_seconds": time.perf_counter() - evaluated,
            "peak_mb": peak_bytes() / MEGABYTE,
        }


def fill(home: Path, users: int) -> None:
    """Write a table of users."""
    with open_stores(Settings(home=home)) as stores:
        number = pl.int_range(users, eager=True)
        frame = pl.DataFrame({"user_id": pl.select(pl.lit("user-") + number.cast(pl.String).str.zfill(7)).to_series()})
        stores.tables.append("users", frame.with_columns(plan=pl.lit("paid")))


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_growth", description=__doc__)
    parser.add_argument("what", choices=["passing", "paging", "fill"])
    parser.add_argument("users", type=int)
    parser.add_argument("home", type=Path, nargs="?")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if given.what == "fill":
        fill(given.home, given.users)
        return
    with tempfile.TemporaryDirectory(prefix="journeys-bench-") as folder:
        work = passing if given.what == "passing" else paging
        if given.what == "paging":
            # A table of as many users would be in this process's peak: another one writes it.
            subprocess.run([*command_of("fill", given.users), folder], check=True)  # noqa: S603  this very program
        print(json.dumps(asyncio.run(work(Path(folder), given.users))))


if __name__ == "__main__":
    main()
