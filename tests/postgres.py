"""A PostgreSQL server of the tests' own: Debian's programs, a fresh cluster, a port of loopback, and a password."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

PASSWORD = "not-to-be-shown"  # noqa: S105  of a server that lives as long as the tests
START_SECONDS = 60


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`: where Debian installs them, newest first, or on the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -int(place.parent.name))
    on_path = shutil.which("initdb")
    places += [Path(on_path).resolve().parent] if on_path else []
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def another_user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses to be run by root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """A running cluster.

    Args:
        programs: The folder of PostgreSQL's programs.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._home = Path(tempfile.mkdtemp(prefix="journeys-postgres-"))
        self._user = another_user()
        self._numbers = count()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        if self._user:
            for path in (self._home, secret):
                shutil.chown(path, self._user)
        self._as_user = {"cwd": self._home, "user": self._user, "extra_groups": [] if self._user else None}
        if self._user:
            self._as_user["group"] = pwd.getpwnam(self._user).pw_gid
        subprocess.run(
            [
                *(programs / "initdb", "-D", self._home / "data", "-U", "tester", "--auth=scram-sha-256"),
                *(f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as_user,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._home / "data"]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"PostgreSQL did not start: {(self._home / 'log').read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once: connections break, what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None

    def remove(self) -> None:
        """Stop the server and take its files away."""
        self.stop()
        shutil.rmtree(self._home)

    def create(self) -> str:
        """Make an empty database.

        Returns:
            Its address, as the setting JOURNEYS_DATABASE takes it.
        """
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self._address(name)

    def execute(self, statement: str) -> None:
        """Run one statement as an administrator would."""
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _address(self, database: str) -> str:
        return f"postgresql://tester:{PASSWORD}@127.0.0.1:{self.port}/{database}"
