"""The demo: everything started, a sample imported, a journey run, its funnel shown. `scripts/demo` runs it."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from activities.tables.imports import import_table

from activities.segments.imported import read_members, store_members
from scripts.output import people, print_failure, print_json, wants_json
from scripts.running import wait_for_end
from scripts.sample import write_documents, write_sample
from scripts.watching import print_stats
from workers.connecting import EmbeddedServer, embedded_server
from workers.embedded import is_alive, run_embedded_server
from workers.engine import Engine
from workers.serving import serving, until_told_to_stop
from workers.settings import HOME_NAME, Settings, load_settings
from workflows.contracts import Stats
from workflows.errors import JourneyError

JOURNEY = "hello"


def demo_home(root: Path) -> Path:
    """Give a home of its own for this demo: the first that no other demo is using, emptied.

    Args:
        root: The project's folder.

    Returns:
        An empty folder.
    """
    number = 1
    while True:
        home = root / HOME_NAME / ("demo" if number == 1 else f"demo-{number}")
        home.mkdir(parents=True, exist_ok=True)
        server = embedded_server(Settings(home=home))
        if (server is None or not is_alive(server)) and _take(home):
            return home
        number += 1


def _take(home: Path) -> bool:
    """Empty a home and mark it as this process's, unless another living process has it."""
    mark = home / "demo.pid"
    try:
        os.kill(int(mark.read_text()), 0)
        return False
    except (OSError, ValueError):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        mark.write_text(str(os.getpid()))
        return True


async def demonstrate(root: Path, users: int, stay: bool) -> None:
    """Run the demo.

    Args:
        root: The project's folder.
        users: How many users the sample has.
        stay: Whether to leave everything running until Ctrl-C.
    """
    home = demo_home(root)
    settings = load_settings(home=home)
    console = people()
    console.print(f"starting Temporal and a worker; all of it is kept in {_short(home)}")
    async with run_embedded_server(settings) as server, serving(settings) as (client, stores):
        engine = Engine(settings, stores)
        await asyncio.to_thread(_prepare, engine, home / "sample", users)
        began = time.monotonic()
        report = await engine.start(JOURNEY, client=client)
        stats = await wait_for_end(engine, client, report)
        seconds = time.monotonic() - began
        _show(stats, server, seconds, home)
        if stay:
            console.print("\nEverything keeps running. Ctrl-C stops it.")
            await until_told_to_stop()


def _prepare(engine: Engine, folder: Path, users: int) -> None:
    """Import the sample and save the documents, by the code behind the commands."""
    console, tables, now = people(), engine.stores.tables, datetime.now(UTC)
    folder.mkdir(parents=True)
    write_sample(folder, users)
    for table in ("users", "devices", "events"):
        report = import_table(tables, table, folder / f"{table}.csv", rejects_dir=engine.settings.rejects, now=now)
        console.print(f"journeys import {table:8} {report.inserted} rows, v{report.version}")
    vip = read_members(
        tables,
        "vip",
        folder / "vip.csv",
        column="client",
        identifier="user_id",
        rejects_dir=engine.settings.rejects,
    )
    store_members(tables, vip)
    engine.stores.catalogue.save([vip.segment], lambda _: [], now)
    console.print(f"journeys segment import vip  {vip.report.users} users, {vip.report.unknown} unknown ids")
    saved = engine.save(write_documents(folder, vip_in_place=False))
    console.print(f"journeys save    {', '.join(one.name for one in saved.saved)}")


def _show(stats: Stats, server: EmbeddedServer, seconds: float, home: Path) -> None:
    rate = stats.audience / seconds
    if wants_json():
        print_json({**stats.model_dump(mode="json"), "seconds": round(seconds, 3), "users_per_second": round(rate, 1)})
        return
    console = people()
    print_stats(stats)
    console.print(f"\n{stats.audience} users in {seconds:.1f} s: {rate:.0f} users a second")
    console.print(f"\nTemporal's UI, where each run can be opened:\n  {server.ui}/namespaces/default/workflows")
    command = f"JOURNEYS_HOME={_short(home)} .venv/bin/journeys"
    console.print("\nTry next, in another terminal:")
    for words in (f"pushes {JOURNEY} --limit 5", f"explain {JOURNEY} u000001", "segment preview vip"):
        console.print(f"  {command} {words}")


def _short(home: Path) -> str:
    try:
        return str(home.relative_to(Path.cwd()))
    except ValueError:
        return str(home)


def main() -> int:
    """Parse the arguments and run the demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Watch a targeted push from start to end.")
    parser.add_argument("--exit", action="store_true", help="end when the journey has finished")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--users", type=int, default=3_000, help="users in the sample (default: 3000)")
    given = parser.parse_args()
    try:
        asyncio.run(demonstrate(Path(__file__).resolve().parent.parent, given.users, not given.exit))
    except JourneyError as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
