"""The storm: `python -m scripts.storm [--seed N] [--short] [--users N] [--json]`, or `scripts/storm`.

A journey runs over some thousands of users, with delays and pushes to a provider that counts. Meanwhile, at moments
that a seed decides, workers, the Temporal server and the provider are killed -9, the provider throttles, breaks, hangs
and cuts, the ledger is locked, the disk is full, the tables are away, new table versions are committed, and operators
pause, resume, revise, let in and take out. Then everything is left alone, and `storm_proof` compares what is kept.

The seed decides what is done and when; how far the journey has come by then depends on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import func, select
from temporalio.service import RPCError

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.life import places_of
from activities.records.rows import enrolments, moves, passages, pushes, steps
from activities.tables.imports import import_table
from activities.upkeep import tidy_tables
from scripts.output import DONE, FAILED, INTERRUPTED, counted, people, print_failure, print_json, wants_json
from scripts.running import stop_as_by_ctrl_c
from scripts.storm_faults import Faults, Site
from scripts.storm_plan import (
    DOCUMENT,
    JOURNEY,
    LONG,
    SEGMENT,
    SHORT,
    STAYING,
    VERSIONS,
    Size,
    Stroke,
    plan_storm,
)
from scripts.storm_proof import Expected, Findings, Proof
from workers.engine import Engine
from workers.operating import Operator
from workers.settings import PREFIX, Settings, child_environment
from workflows.contracts import (
    EnterRequest,
    FinishRequest,
    ResumeRequest,
    ReviseRequest,
    Stats,
    TakeOutRequest,
    UserGiven,
    journey_workflow_id,
)
from workflows.errors import JourneyError, RefusedError
from workflows.upkeep import UpkeepInput

WORD_SECONDS = 150.0
"""How long an operator repeats a word that does not get through."""
STUCK_SECONDS = 180.0
"""How long nothing may happen after the storm: what a dead worker was deciding is asked again after two minutes."""
SETTLE_SECONDS = 2.0

Said = TypeVar("Said")


class Storm:
    """One storm over one journey.

    Args:
        home: An empty folder, where all of it is kept.
        seed: Decides everything that chance decides.
        size: How big.
    """

    def __init__(self, home: Path, seed: int, size: Size) -> None:
        self.settings = Settings(home=home)
        self.seed, self.size = seed, size
        self.did: list[dict[str, Any]] = []
        self.expected = Expected()
        self._site = Site(self.settings)
        self._faults = Faults(self._site)
        self._turn = asyncio.Lock()
        self._version = 1
        self._asks = 0
        self._began = time.monotonic()

    async def rage(self) -> Findings:
        """Run the journey through the storm, and prove what came of it."""
        self.tell(f"seed {self.seed}, {counted(self.size.users, 'user')}; all is kept in {self.settings.home}")
        with Engine.open(self.settings) as engine:
            self._engine = engine
            await asyncio.to_thread(self._prepare)
            async with self._site.running() as client:
                self._client = client
                self._operator = Operator(client, JOURNEY)
                await self._word(lambda: engine.start(f"{JOURNEY}@1", client=client))
                self.tell(f"the journey is started, for an audience of {len(self.expected.audience)}")
                self._began = time.monotonic()
                plan = plan_storm(self.seed, self.size)
                await asyncio.gather(*(self._strike(stroke) for stroke in plan))
                self.tell("the storm is over")
                found = await self._calm()
                await self._prove(found, {STAYING}, "with users inside")
                await self._end(found)
                found.numbers |= self._programs()
                return found

    def tell(self, what: str) -> None:
        """Write down, and say, what was done."""
        at = round(time.monotonic() - self._began, 1)
        self.did.append({"at": at, "what": what})
        people().print(f"{at:7.1f} s  {what}", markup=False)

    async def _strike(self, stroke: Stroke) -> None:
        await asyncio.sleep(self._began + stroke.at - time.monotonic())
        act = getattr(self._faults, stroke.kind, None) or getattr(self, f"_{stroke.kind}")
        self.tell(await act(stroke.seconds, stroke.pick))

    async def _word(self, say: Callable[[], Awaitable[Said]], said_already: str = "") -> Said | None:
        """Say a word to the engine until it gets through, as operators do.

        Args:
            say: The word.
            said_already: What the refusal says when an earlier try has got through after all.

        Returns:
            The answer; None where an earlier try had it.
        """
        deadline = time.monotonic() + WORD_SECONDS
        while True:
            try:
                return await say()
            except (JourneyError, RPCError) as error:
                if said_already and said_already in str(error):
                    return None
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    async def _pause(self, seconds: float, pick: int) -> str:
        due = ("now", "shift")[pick % 2]
        async with self._turn:
            began = time.monotonic()
            await self._word(self._operator.pause, "paused already")
            self.tell(f"the journey is paused; that took {time.monotonic() - began:.1f} s")
            await asyncio.sleep(seconds)
            request = ResumeRequest(due="now" if due == "now" else "shift")
            await self._word(lambda: self._operator.resume(request), "not paused")
        return f"the journey is resumed after {seconds:.1f} s, what fell due: {due}"

    async def _revise(self, seconds: float, pick: int) -> str:
        async with self._turn:
            self._version += 1
            mapping = {"stay": STAYING} if self._version == len(VERSIONS) else {}
            request = ReviseRequest(version=self._version, inside="move", mapping=mapping)
            report = await self._word(lambda: self._operator.revise(request))
        inside = report.inside if report is not None else "?"
        return f"version {self._version} took over from {inside} users inside"

    async def _enter(self, seconds: float, pick: int) -> str:
        chance = random.Random(pick)  # noqa: S311  no secret
        self._asks += 1
        who = chance.sample(sorted(self._free), 8) + chance.sample(sorted(self.expected.audience), 4)
        request = EnterRequest(
            users=[UserGiven(user_id=user) for user in [*who, f"nobody-{self._asks}"]], request=f"ask-{self._asks}"
        )
        async with self._turn:  # in a pause nobody enters
            report = await self._word(lambda: self._operator.enter(request))
        self.expected.asked += [user.user_id for user in request.users]
        entered, refused = (len(report.entered), report.refused) if report is not None else (0, {})
        return f"{entered} users entered by the door, {len(refused)} were refused"

    async def _remove(self, seconds: float, pick: int) -> str:
        user = random.Random(pick).choice(sorted(self.expected.audience))  # noqa: S311  no secret
        report = await self._word(lambda: self._operator.remove(TakeOutRequest(user_id=user)), "not inside")
        return f"{user} is taken out" if report is not None else f"{user} is not inside, and cannot be taken out"

    async def _import_tables(self, seconds: float, pick: int) -> str:
        chance = random.Random(pick)  # noqa: S311  no secret
        users = sorted(self.expected.audience | self._free)
        changed = [(user, chance.choice(("gold", "silver", "none"))) for user in chance.sample(users, len(users) // 5)]
        devices = [(f"{user}-n{pick}", user, "ios", "token") for user in chance.sample(users, 5)]
        folder = self.settings.home / f"import-{pick}"
        folder.mkdir(exist_ok=True)
        _write(folder / "users.csv", ("user_id", "tier"), changed)
        _write(folder / "devices.csv", ("device_id", "user_id", "platform", "token"), devices)
        async with self._faults.tables:
            versions = await asyncio.to_thread(self._import, folder)
        return f"imported: users v{versions[0]}, devices v{versions[1]}"

    async def _tidy_tables(self, seconds: float, pick: int) -> str:
        async with self._faults.tables:
            await self._word(lambda: asyncio.to_thread(tidy_tables, self._engine.stores, UpkeepInput(retain="1h")))
        return "the tables are tidied"

    def _prepare(self) -> None:
        """Write the audience, and save all versions of the journey."""
        chance = random.Random(self.seed)  # noqa: S311  no secret
        folder = self.settings.home / "import-first"
        folder.mkdir(parents=True)
        people_rows, devices = [], []
        self._free: set[str] = set()
        for number in range(self.size.users):
            user, plan = f"u{number:05d}", chance.choice(("paid", "pro", "paid", "free"))
            (self._free if plan == "free" else self.expected.audience).add(user)
            people_rows.append((user, f"Name {number}", plan, chance.choice(("gold", "silver", "none"))))
            own = chance.choice((0, 1, 1, 1, 2))
            devices += [(f"{user}-d{place}", user, "android", f"token-{number}-{place}") for place in range(own)]
            self.expected.reachable |= {user} if own else set()
        _write(folder / "users.csv", ("user_id", "first_name", "plan", "tier"), people_rows)
        _write(folder / "devices.csv", ("device_id", "user_id", "platform", "token"), devices)
        self._import(folder)
        for text in (SEGMENT, *(DOCUMENT.format_map(version) for version in VERSIONS)):
            save_documents(self._engine.stores, read_text(text, "storm.yaml"), datetime.now(UTC))

    def _import(self, folder: Path) -> list[int | None]:
        return [
            import_table(
                self._engine.stores.tables,
                table,
                folder / f"{table}.csv",
                now=datetime.now(UTC),
                rejects_dir=self.settings.rejects,
            ).version
            for table in ("users", "devices")
        ]

    async def _calm(self) -> Findings:
        """Wait until all have come where they belong: nothing is done to them any more."""
        found, stores = Findings(), self._engine.stores
        since, before = time.monotonic(), 0
        waits = f"JourneyId = '{JOURNEY}' AND JourneyElement = '{STAYING}' AND ExecutionStatus = 'Running'"
        while True:
            places = await asyncio.to_thread(places_of, stores, JOURNEY)
            enrolled = all(row.cursor == row.audience for row in await asyncio.to_thread(self._enrolments))
            if enrolled and set(places) <= {STAYING}:
                count = (await self._client.count_workflows(waits)).count
                if count == places.get(STAYING, 0):
                    self.tell(f"all is calm, inside are: {places}")
                    break
            happened = await asyncio.to_thread(self._happened)
            if happened != before:
                since, before = time.monotonic(), happened
            elif time.monotonic() > since + STUCK_SECONDS:
                self.tell(f"nothing happens any more, inside are: {places}")
                found.require([f"for {STUCK_SECONDS:.0f} s nothing happens, and users are still at {places}"])
                break
            await asyncio.sleep(1)
        await asyncio.sleep(SETTLE_SECONDS)
        return found

    def _enrolments(self) -> list[Any]:
        database = self._engine.stores.ledger.database
        return list(database.read(lambda connection: connection.execute(enrolments.select()).all()))

    def _happened(self) -> int:
        """Count what the ledger holds of what has happened."""
        queries = [select(func.count()).select_from(table) for table in (passages, steps, moves, pushes)]
        queries.append(select(func.count()).where(passages.c.begun_at.is_not(None)))
        database = self._engine.stores.ledger.database
        return sum(database.read(lambda connection: [connection.execute(query).scalar_one() for query in queries]))

    async def _prove(self, found: Findings, inside: set[str], when: str) -> None:
        """Prove, and add what is lost and the numbers to what was found before."""
        proof = Proof(self._engine.stores, self._client, self._site.counts, JOURNEY, self.expected)
        now = await proof.find(inside=inside)
        found.require(f"{when}: {loss}" for loss in now.losses)
        found.numbers[when] = now.numbers
        self.tell(f"proved {when}: {counted(len(now.losses), 'loss') if now.losses else 'nothing is lost'}")

    async def _end(self, found: Findings) -> None:
        """Have everybody leave, and prove again."""
        await self._word(lambda: self._operator.finish(FinishRequest(inside="end")))
        handle = self._client.get_workflow_handle(journey_workflow_id(JOURNEY), result_type=Stats)
        try:
            await asyncio.wait_for(handle.result(), STUCK_SECONDS)
        except TimeoutError:
            found.require(["the journey was finished, and does not end"])
        await asyncio.sleep(SETTLE_SECONDS)
        await self._prove(found, set(), "with everybody out")

    def _programs(self) -> dict[str, Any]:
        """Count how often each process was started."""
        site = self._site
        return {"starts": {one.name: one.starts for one in (site.server, site.provider, *site.workers)}}


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def refuse_real_parts() -> None:
    """Refuse to run where a setting could lead a storm to somebody's real parts.

    Raises:
        RefusedError: Such a setting is set.
    """
    harmless = {f"{PREFIX}HOME", f"{PREFIX}SERVER"}
    found = sorted({name for name in child_environment(Settings()) if name.startswith(PREFIX)} - harmless)
    if found:
        raise RefusedError(
            f"{', '.join(found)} is set: this keeps to parts of its own, and kills them",
            code="real-parts",
            hint="unset it, and try again",
        )


def number_between(least: int, most: int) -> Callable[[str], int]:
    """Give what reads an argument as a number within bounds, both included."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most:,}")
        return int(text)

    return read


def main() -> int:
    """Parse the arguments, storm, and give the exit status: 0 nothing is lost, 1 something is, 2 refused."""
    parser = argparse.ArgumentParser(prog="scripts/storm", description="Prove that faults lose nobody.")
    parser.add_argument("--seed", type=number_between(0, 1 << 32), help="repeats a storm (default: by chance)")
    parser.add_argument("--short", action="store_true", help="some two and a half minutes, with 300 users")
    parser.add_argument("--users", type=number_between(50, 1_000_000), help="users (default: 3000)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of all parts also where nothing is lost")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    given = parser.parse_args()
    size = SHORT if given.short else LONG
    size = Size(given.users or size.users, size.seconds, size.times)
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    stop_as_by_ctrl_c()
    began = time.monotonic()
    try:
        refuse_real_parts()
        home = Path(tempfile.mkdtemp(prefix="journeys-storm-"))
        storm = Storm(home, seed, size)
        found = asyncio.run(storm.rage())
    except JourneyError as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    _report(storm, found, time.monotonic() - began)
    if found.losses:
        return FAILED
    if not given.keep:
        shutil.rmtree(home)
    return DONE


def _report(storm: Storm, found: Findings, seconds: float) -> None:
    """Print what was found."""
    plan = Counter(stroke.kind for stroke in plan_storm(storm.seed, storm.size))
    if wants_json():
        print_json(
            {
                "ok": not found.losses,
                "seed": storm.seed,
                "users": storm.size.users,
                "seconds": round(seconds, 1),
                "strokes": dict(plan),
                "did": storm.did,
                "found": found.numbers,
                "losses": found.losses,
            }
        )
        return
    console = people()
    for name, value in found.numbers.items():
        console.print(f"\n{name}:", markup=False)
        for key, number in value.items():
            console.print(f"  {key:28} {number}", markup=False)
    console.print()
    for loss in found.losses:
        console.print(f"LOST  {loss}", markup=False)
    if found.losses:
        again = (
            f"--seed {storm.seed} --users {storm.size.users}{' --short' if storm.size.seconds == SHORT.seconds else ''}"
        )
        console.print(
            f"\nthe parts are kept in {storm.settings.home}; repeat it with: scripts/storm {again}", markup=False
        )
    else:
        console.print(
            f"nothing is lost, after {plan.total()} strokes in {seconds:.0f} s, seed {storm.seed}", markup=False
        )


if __name__ == "__main__":
    sys.exit(main())
