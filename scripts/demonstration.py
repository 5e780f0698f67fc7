"""The demo: everything started, a sample imported, a journey run, its funnel shown. `scripts/demo` runs it."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import itertools
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from activities.records.reports import list_pushes
from activities.segments.imported import import_segment, read_members
from activities.tables.imports import import_table
from scripts.funnel import print_stats
from scripts.output import DONE, INTERRUPTED, counted, people, print_failure, print_json, wants_json
from scripts.running import stop_as_by_ctrl_c, wait_for_end
from scripts.sample import write_documents, write_sample
from workers.connecting import EmbeddedServer, embedded_server
from workers.embedded import is_alive, run_embedded_server
from workers.engine import Engine
from workers.serving import serving, until_told_to_stop
from workers.settings import HOME_NAME, Settings, load_settings
from workflows.contracts import Stats
from workflows.errors import JourneyError

JOURNEY = "hello"
MOST_USERS = 1_000_000
HOME_HELP = "folder that keeps the state of demos (default: .journeys in the project)"


@contextmanager
def demo_home(folder: Path) -> Iterator[Path]:
    """Give a home of its own to this demo: the first that no other demo is using, emptied.

    Args:
        folder: Where such homes are.

    Yields:
        An empty folder, which no other demo takes meanwhile.
    """
    for number in itertools.count(1):
        home = folder / ("demo" if number == 1 else f"demo-{number}")
        home.mkdir(parents=True, exist_ok=True)
        with (folder / f"{home.name}.lock").open("w") as lock:  # beside the home, which is about to be removed
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            server = embedded_server(Settings(home=home))
            if server is not None and is_alive(server):
                continue  # its demo was killed, and left the server behind
            shutil.rmtree(home)
            home.mkdir()
            yield home
            return


async def demonstrate(home: Path, users: int, *, stay: bool) -> None:
    """Run the demo.

    Args:
        home: An empty folder, where all of it is kept.
        users: How many users the sample has.
        stay: Whether to leave everything running until Ctrl-C.
    """
    settings = load_settings(home=home)
    console = people()
    console.print(f"starting Temporal and a worker; all of it is kept in {_short(home)}", markup=False)
    async with run_embedded_server(settings) as server, serving(settings) as (client, stores):
        engine = Engine(settings, stores)
        await asyncio.to_thread(_prepare, engine, home / "sample", users)
        began = time.monotonic()
        started = await engine.start(JOURNEY, client=client)
        stats = await wait_for_end(engine, client, started)
        seconds = time.monotonic() - began
        _show(engine, stats, server, seconds)
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
        console.print(f"journeys import {table:8} {counted(report.inserted, 'row')}, v{report.version}")
    vip = read_members(
        tables,
        "vip",
        folder / "vip.csv",
        column="client",
        identifier="user_id",
        rejects_dir=engine.settings.rejects,
    )
    import_segment(tables, engine.stores.catalogue, vip, now)
    console.print(f"journeys segment import vip  {counted(vip.report.users, 'user')}, {vip.report.unknown} unknown ids")
    saved = engine.save(write_documents(folder, vip_in_place=False))
    console.print(f"journeys save    {', '.join(one.name for one in saved.saved)}")


def _show(engine: Engine, stats: Stats, server: EmbeddedServer, seconds: float) -> None:
    """Print the funnel, where to look, and what to try next."""
    rate = stats.audience / seconds
    if wants_json():
        print_json({**stats.model_dump(mode="json"), "seconds": round(seconds, 3), "users_per_second": round(rate, 1)})
        return
    console = people()
    console.print()
    print_stats(stats)
    console.print(f"\n{counted(stats.audience, 'user')} in {seconds:.1f} s: {rate:.0f} users a second")
    console.print(f"\nTemporal's UI, where each run can be opened:\n  {server.ui}/namespaces/default/workflows")
    program = Path(sys.executable).parent / "journeys"
    command = f"JOURNEYS_HOME={shlex.quote(_short(engine.settings.home))} {shlex.quote(_short(program))}"
    pushed = list_pushes(engine.stores.ledger.database, journey=JOURNEY, limit=1).pushes
    user = pushed[0].user_id if pushed else "u000000"
    console.print("\nTry next, in another terminal:")
    for words in (f"pushes {JOURNEY} --limit 5", f"explain {JOURNEY} {user}", "segment preview vip"):
        console.print(f"  {command} {words}", markup=False)


def _short(path: Path) -> str:
    """Write a path from the current folder on, where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _some(text: str) -> int:
    """Read a number of users."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_USERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST_USERS:,}")
    return int(text)


def main() -> int:
    """Parse the arguments and run the demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Watch a targeted push from start to end.")
    parser.add_argument("--exit", action="store_true", help="end when the journey has finished")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--users", type=_some, default=3_000, help="users in the sample (default: 3000)")
    parser.add_argument("--home", type=Path, default=Path(__file__).resolve().parent.parent / HOME_NAME, help=HOME_HELP)
    given = parser.parse_args()
    stop_as_by_ctrl_c()
    try:
        with demo_home(given.home.resolve()) as home:
            asyncio.run(demonstrate(home, given.users, stay=not given.exit))
    except JourneyError as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
