"""The command line as a test drives it: in this process where that is quick, or as a program of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scripts import cli
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, VIP
from workers.engine import Engine
from workers.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FAULT_KEYS = {"path", "code", "message", "hint", "file", "line", "column"}
EVENTS = """\
event_id,user_id,event,at,amount
e1,u1,purchase,2026-01-05T10:00:00Z,20.00 EUR
e2,u2,purchase,2026-01-06T10:00:00Z,15.50 EUR
e3,u1,session,2026-01-07T10:00:00Z,
"""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which is exactly one JSON object."""
        return one_object(self.out)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The faults of a failure, which is one JSON object of the failures' shape."""
        assert self.status in (1, 2, 130), self
        found = self.json
        assert set(found) == {"ok", "errors"}, found
        assert found["ok"] is False
        assert found["errors"]
        for fault in found["errors"]:
            assert set(fault) == FAULT_KEYS, fault
            assert fault["code"], fault
            assert fault["message"], fault
        return list(found["errors"])

    @property
    def codes(self) -> list[str]:
        """The codes of a failure's faults."""
        return [fault["code"] for fault in self.errors]


def one_object(text: str) -> dict[str, Any]:
    """Read exactly one JSON object, with nothing before or after it."""
    found, end = json.JSONDecoder().raw_decode(text)
    assert text[end:].strip() == "", text
    assert isinstance(found, dict), text
    return found


class Commands:
    """`journeys` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".journeys").mkdir(exist_ok=True)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.folder / ".journeys")

    def __call__(self, *words: str, stdin: str | bytes = "") -> Said:
        """Run one command in this process, in the folder."""
        written = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            patch.object(sys, "argv", ["journeys", *words]),
            patch.object(sys, "stdin", io.TextIOWrapper(written)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = cli.run()
        return Said(status, out.getvalue(), err.getvalue())

    def program(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Run one command as a program of its own, and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> Said:
        """Run one command as a program of its own, to its end."""
        process = self.program(*words, **environment)
        out, err = process.communicate(timeout=60)
        return Said(process.returncode, out, err)

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a file of the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return path

    def kept(self) -> object:
        """Everything that the stores keep: versions of tables, and all versions of all documents."""
        with Engine.open(self.settings) as engine:
            catalogue = engine.stores.catalogue
            saved = [
                (kind, name, version.version, version.digest)
                for kind in ("segment", "journey")
                for name in catalogue.names(kind)
                for version in catalogue.versions(kind, name)
            ]
            return engine.stores.tables.versions(), sorted(saved)


def filled(folder: Path) -> Commands:
    """A folder with tables, files and saved documents."""
    found = Commands(folder)
    for name, text in (("users", USERS), ("devices", DEVICES), ("events", EVENTS)):
        found.write(f"{name}.csv", text)
        assert found("import", name, f"{name}.csv").status == 0
    found.write("vip.csv", VIP)
    found.write("all.yaml", SAMPLE_DOCUMENTS)
    assert found("save", "all.yaml").status == 0
    assert found("segment", "import", "vip", "vip.csv").status == 0
    return found
