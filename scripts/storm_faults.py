"""What the storm is made of: the processes under the journey, and what is done to them.

```
Site      the server, two workers and the provider, each a process; whatever ends is started again
Faults    one method for each kind of fault: it begins, lasts some seconds, and is over
```
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import signal
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from scripts.output import counted
from scripts.storm_receiver import Mood, Order
from workers.connecting import EmbeddedServer, NoServer, embedded_file
from workers.embedded import free_port, server_command
from workers.plugin import JourneysPlugin
from workers.settings import PREFIX, Settings, child_environment

ROOT = Path(__file__).resolve().parent.parent
OWN = ("JOURNEYS_", "TEMPORAL_")
"""Variables that could lead a process of the storm to somebody's real parts."""
PORTS = range(20_000, 30_000)
"""Below those that connections are made from: while the server is down, no connection of somebody's takes its port."""
WORKERS = 2
AGAIN_SECONDS = 0.5
"""How long a process that ended by itself stays down before it is started again, as a supervisor would."""
ANSWER_SECONDS = 60.0

Answer = TypeVar("Answer")


class Program:
    """A process that is started again whenever it ends, unless it is held down.

    Args:
        name: For people.
        command: What to run.
        environment: Its whole environment.
        log: Where its output goes, by a pipe: a limit on the files of the process does not silence it.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command, self._environment, self._log = command, environment, log
        self._process: Process | None = None
        self._may_run = asyncio.Event()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The running process; None while it is down."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Program]:
        """Keep it running while the body runs, and kill it then."""
        self._may_run.set()
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            self._kill()
            if self._process is not None:
                await self._process.wait()

    async def down(self, seconds: float) -> None:
        """Kill -9, and start again after some seconds."""
        self._may_run.clear()
        self._kill()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._may_run.set()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def _keep(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while True:
                await self._may_run.wait()
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    cwd=ROOT,
                    env=self._environment,
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=STDOUT,
                    start_new_session=True,  # a Ctrl-C reaches the storm alone, which ends them
                )
                self.starts += 1
                if self._process.stdout is not None:
                    while piece := await self._process.stdout.read(65_536):
                        log.write(piece)
                await self._process.wait()
                await asyncio.sleep(AGAIN_SECONDS)


class Site:
    """The processes under the journey, on loopback, with all their state in one home.

    Args:
        settings: Of the home.
        workers: How many worker processes.
        options: More options of the server's program.
    """

    def __init__(self, settings: Settings, *, workers: int = WORKERS, options: Sequence[str] = ()) -> None:
        self.settings = settings
        # Its warnings of a server that is down would stand between what people, or programs, read.
        self._runtime = Runtime(telemetry=TelemetryConfig(logging=None))
        self.counts = settings.home / "received.jsonl"
        port, ui_port, provider_port = (free_port(PORTS.start + secrets.randbelow(len(PORTS))) for _ in range(3))
        self.address, self._ui = f"127.0.0.1:{port}", f"http://127.0.0.1:{ui_port}"
        self._provider = f"http://127.0.0.1:{provider_port}"
        secret = secrets.token_hex(16)
        bare = {name: value for name, value in child_environment(settings).items() if not name.startswith(OWN)}
        environment = {
            **bare,
            "TEMPORAL_ADDRESS": self.address,
            f"{PREFIX}HOME": str(settings.home),
            f"{PREFIX}FRESHNESS_SECONDS": "2",
            f"{PREFIX}PUSH_PROVIDER": "webhook",
            f"{PREFIX}PUSH_KEEP_OFF": "false",
            f"{PREFIX}WEBHOOK_URL": f"{self._provider}/push",
            f"{PREFIX}WEBHOOK_SECRET": secret,
        }
        receiver = [sys.executable, "-m", "scripts.storm_receiver", "--port", str(provider_port)]
        receiver += ["--counts", str(self.counts), "--secret", secret]
        self.server = self._program("server", server_command(settings, port, ui_port, options), bare)
        self.provider = self._program("provider", receiver, bare)
        self.workers = [
            self._program(f"worker-{number}", [sys.executable, "-m", "workers"], environment)
            for number in range(1, workers + 1)
        ]

    def _program(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Program:
        return Program(name, command, environment, self.settings.home / f"{name}.log")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        """Run everything while the body runs.

        Yields:
            A client of the server.

        Raises:
            NoServer: The server, or the provider, does not answer.
        """
        async with AsyncExitStack() as stack:
            for program in (self.server, self.provider):
                await stack.enter_async_context(program.running())
            client = await self._until_it_answers(self.server, self._connect)
            # So that commands find the server meanwhile: JOURNEYS_HOME=... journeys stats storm
            written = EmbeddedServer(address=self.address, ui=self._ui, pid=self.server.pid or 0)
            embedded_file(self.settings).write_text(written.model_dump_json())
            await self.order("takes", 0.0)
            for program in self.workers:
                await stack.enter_async_context(program.running())
            yield client

    async def order(self, mood: Mood, seconds: float) -> None:
        """Have the provider be in some mood for some seconds.

        Raises:
            NoServer: It does not answer.
        """
        order = Order(mood=mood, seconds=seconds).model_dump_json()

        async def ask() -> None:
            async with aiohttp.ClientSession() as session, session.post(f"{self._provider}/mood", data=order) as said:
                said.raise_for_status()

        await self._until_it_answers(self.provider, ask)

    async def until_server_answers(self, client: Client) -> None:
        """Return when the server answers again.

        Raises:
            NoServer: It does not.
        """
        await self._until_it_answers(self.server, client.count_workflows)

    async def _connect(self) -> Client:
        client = await Client.connect(self.address, plugins=[JourneysPlugin()], runtime=self._runtime)
        await client.count_workflows()
        return client

    async def _until_it_answers(self, program: Program, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_SECONDS
        while True:
            try:
                return await ask()
            except (aiohttp.ClientError, RuntimeError, RPCError, OSError) as error:
                if loop.time() > deadline:
                    log = self.settings.home / f"{program.name}.log"
                    raise NoServer(f"the storm's {program.name} does not answer: {error}", hint=f"see {log}") from error
            await asyncio.sleep(0.2)


class Faults:
    """What is done to a site: each method begins a fault, and returns when it is over.

    Args:
        site: The processes and stores.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.tables = asyncio.Lock()
        """Held by whoever uses the tables from here, or takes them away."""
        self._ledger = asyncio.Lock()

    async def kill_worker(self, seconds: float, pick: int) -> str:
        """Kill -9 one worker."""
        worker = self._site.workers[pick % len(self._site.workers)]
        await worker.down(seconds)
        return f"{worker.name} killed, and started {seconds:.1f} s later"

    async def kill_workers(self, seconds: float, pick: int) -> str:
        """Kill -9 all workers."""
        await asyncio.gather(*(worker.down(seconds) for worker in self._site.workers))
        return f"all workers killed, and started {seconds:.1f} s later"

    async def kill_server(self, seconds: float, pick: int) -> str:
        """Kill -9 the Temporal server."""
        await self._site.server.down(seconds)
        return f"the Temporal server killed, and started {seconds:.1f} s later"

    async def kill_provider(self, seconds: float, pick: int) -> str:
        """Kill -9 the provider: connections are refused."""
        await self._site.provider.down(seconds)
        return f"the provider killed, and started {seconds:.1f} s later"

    async def provider_throttles(self, seconds: float, pick: int) -> str:
        """Have the provider answer 429."""
        return await self._provider("throttles", "answered 429", seconds)

    async def provider_breaks(self, seconds: float, pick: int) -> str:
        """Have the provider answer 500."""
        return await self._provider("breaks", "answered 500", seconds)

    async def provider_hangs(self, seconds: float, pick: int) -> str:
        """Have the provider take every second push, and answer none."""
        return await self._provider("hangs", "did not answer", seconds)

    async def provider_cuts(self, seconds: float, pick: int) -> str:
        """Have the provider take every second push, and cut all connections."""
        return await self._provider("cuts", "cut connections", seconds)

    async def _provider(self, mood: Mood, did: str, seconds: float) -> str:
        await self._site.order(mood, seconds)
        await asyncio.sleep(seconds)
        return f"the provider {did} for {seconds:.1f} s"

    async def lock_ledger(self, seconds: float, pick: int) -> str:
        """Hold the ledger's file as another program could: nobody can write."""

        def held() -> sqlite3.Connection:
            # Another thread may close it than the one that has waited for the lock.
            file = self._site.settings.home / "ledger.db"
            other = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            return other

        async with self._ledger:
            other = await asyncio.to_thread(held)
            try:
                await asyncio.sleep(seconds)
            finally:
                await asyncio.to_thread(other.close)
        return f"the ledger was locked for {seconds:.1f} s"

    async def fill_disk(self, seconds: float, pick: int) -> str:
        """Let workers write no file beyond its first byte, as at the end of a disk quota."""
        async with self._ledger:
            full = [pid for worker in self._site.workers if (pid := worker.pid) is not None]
            for pid in full:
                _limit_files(pid, 1)
            try:
                await asyncio.sleep(seconds)
            finally:
                for pid in full:
                    _limit_files(pid, None)
        return f"the disk was full for {counted(len(full), 'worker')} for {seconds:.1f} s"

    async def lose_tables(self, seconds: float, pick: int) -> str:
        """Take the tables away, as an unmounted disk does."""
        there = Path(self._site.settings.tables_root)
        async with self.tables:
            away = there.rename(there.with_name("tables-away"))
            try:
                await asyncio.sleep(seconds)
            finally:
                away.rename(there)
        return f"the tables were away for {seconds:.1f} s"


def _limit_files(pid: int, size: int | None) -> None:
    """Limit the size of the files that a process writes, bytes; null takes the limit away. A dead one needs neither."""
    with contextlib.suppress(ProcessLookupError):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if size is None else size, most))
