"""A newcomer's way: the README's own commands, typed one after the other, lead to a revised and resumed journey."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.sample import JOURNEY, REMINDER
from tests.commands import one_object
from tests.test_readme import README, blocks

COMMENT = re.compile(r"\s+#.*$")
SERVES = "worker           serving"
BUYER, NAMED = "u000452", "u000001"
"""Who buys in time, and who is named to enter."""


def commands_of(heading: str) -> list[str]:
    """Give the commands of a section's shell block as the README has them, without the comments behind them."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [COMMENT.sub("", line) for line in block.splitlines() if line.strip()]


class Terminal:
    """A shell as a newcomer has it: each command is typed when the one before it has ended."""

    def __init__(self, folder: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh"],
            cwd=folder,
            env={**os.environ, "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, command: str) -> str:
        """Run a command, which has to succeed, and give what it printed."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'{command}\necho "=== $?"\n')
        self._shell.stdin.flush()
        said = ""
        for line in self._shell.stdout:
            if line.startswith("=== "):
                assert line == "=== 0\n", f"{command}\n{said}"
                return said
            said += line
        raise AssertionError(f"the shell has ended at: {command}\n{said}")

    def close(self) -> None:
        self._shell.communicate(timeout=20)


@contextmanager
def a_clone(folder: Path) -> Iterator[Terminal]:
    """Give a terminal in a folder whose environment is made, and stop at the end what was left running in it."""
    (folder / ".venv").symlink_to(sys.prefix)
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        if (running := folder / "dev.pid").exists():
            os.kill(int(running.read_text()), signal.SIGTERM)
        terminal.close()


def leave_running(terminal: Terminal, folder: Path) -> None:
    """Do what "leave it running" says, and go on when it says that it serves."""
    terminal.type(f"journeys dev >{folder}/dev.out 2>&1 & echo $! >{folder}/dev.pid")
    deadline = time.monotonic() + 30
    while SERVES not in (said := (folder / "dev.out").read_text()):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.mark.parametrize("text", [REMINDER], ids=["reminder.yaml"])
def test_the_journey_that_waits_is_the_one_that_new_writes(text: str) -> None:
    """The README shows `reminder.yaml` as `journeys new` writes it, but for the line for editors."""
    assert text.split("\n", 1)[1] in blocks("yaml")


def test_the_first_journey_differs_only_in_what_the_readme_leaves_out() -> None:
    """The README's `hello.yaml` holds no line that the one `journeys new` writes lacks."""
    written = {line.split("#")[0].strip().replace("%%", "%") for line in JOURNEY.splitlines()}
    shown = next(block for block in blocks("yaml") if block.startswith("journey: hello"))
    lines = {line.split("#")[0].strip() for line in shown.splitlines()}
    assert lines - written == {"match: {file: vip.csv, column: client}"}


def test_from_a_clone_to_a_revised_and_resumed_journey(tmp_path: Path) -> None:
    """Each command of the README's first two journeys succeeds as it is written, and their numbers are as it says."""
    said: dict[str, str] = {}
    with a_clone(tmp_path) as terminal:
        for heading in ("The first journey", "A journey that waits"):
            for command in commands_of(heading):
                if command == "journeys dev":
                    leave_running(terminal, tmp_path)
                else:
                    said[command] = terminal.type(command)
        ended = wait_for_the_end(terminal)
        first = one_object(terminal.type("journeys stats reminder --version 1 --json"))
        pushed = {
            user: [
                push["element"]
                for push in one_object(terminal.type(f"journeys pushes reminder --user {user} --json"))["pushes"]
            ]
            for user in (BUYER, NAMED)
        }
    # The first version lets the audience in; whoever waited at the revision goes on in the second, and is reminded.
    assert first["entered"] == first["audience"] > first["moved_out"] == ended["moved_in"] > 0
    assert first["entered"] + first["moved_in"] == sum(first["exited"].values()) + first["moved_out"]
    assert (ended["audience"], ended["entered"], ended["inside"]) == (1, 1, 0)
    assert ended["exited"] == {"end": ended["moved_in"] + 1}
    assert first["elements"]["remind"]["arrived"] == 0
    assert ended["elements"]["remind"]["users"] == {"accepted": ended["elements"]["wait"]["branches"]["not_triggered"]}
    assert set(pushed[BUYER]) == {"thanks"}
    assert set(pushed[NAMED]) == {"remind"}
    (revised,) = (text for command, text in said.items() if "--inside move" in command)
    assert revised.splitlines()[-1].startswith("reminder v2 takes over and is paused; those inside go on in it; ")
    (planned,) = (text for command, text in said.items() if "plan reminder" in command)
    assert "- wait: what users do is not known before; others may arrive" in planned.splitlines()
    assert all(text.strip() for command, text in said.items() if command.startswith("journeys "))


def wait_for_the_end(terminal: Terminal) -> dict[str, object]:
    """Give the last numbers, when nobody is inside."""
    deadline = time.monotonic() + 30
    while True:
        found = one_object(terminal.type("journeys stats reminder --json"))
        if found["inside"] == 0:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
