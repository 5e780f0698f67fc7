"""A newcomer's way: the README's own commands, typed one after the other, lead to a revised and resumed journey."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.output import DONE
from scripts.sample import JOURNEY, REMINDER
from tests.commands import Commands, one_object
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
    """A terminal as a newcomer has it: each command is typed when the one before it has ended.

    Args:
        folder: The clone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # As `. .venv/bin/activate` leaves it for the commands behind it.
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def type(self, command: str) -> str:
        """Run a command, which has to succeed, and give what it printed.

        A plain `journeys` command runs in this process, since loading it thirty times would take a minute; the rest
        is the shell's.
        """
        words = shlex.split(command)
        if words[0] == "journeys" and "&&" not in words:
            here = Commands(self._folder)(*words[1:])
            assert here.status == 0, f"{command}\n{here.out}{here.err}"
            return here.out
        shell = subprocess.run(
            ["/bin/sh", "-c", f"{command} && pwd"],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.returncode == 0, f"{command}\n{shell.stdout}{shell.stderr}"
        *said, folder = shell.stdout.splitlines()
        self._folder = Path(folder)
        return "\n".join(said)

    @contextmanager
    def leave_running(self, command: str) -> Iterator[None]:
        """Run a command beside the others, from when it says that it serves; Ctrl-C at the end."""
        with (self._folder / "running.out").open("w+") as said:
            process = subprocess.Popen(
                shlex.split(command), cwd=self._folder, env=self._environment, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                deadline = time.monotonic() + 60
                while SERVES not in (told := Path(said.name).read_text()):
                    assert process.poll() is None, told
                    assert time.monotonic() < deadline, told
                    time.sleep(0.1)
                yield
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == DONE


def test_the_journey_that_waits_is_the_one_that_new_writes() -> None:
    """The README shows `reminder.yaml` as `journeys new` writes it, but for the line for editors."""
    assert REMINDER.split("\n", 1)[1] in blocks("yaml")


def test_the_first_journey_differs_only_in_what_the_readme_leaves_out() -> None:
    """The README's `hello.yaml` holds no line that the one `journeys new` writes lacks."""
    written = {line.split("#")[0].strip().replace("%%", "%") for line in JOURNEY.splitlines()}
    shown = next(block for block in blocks("yaml") if block.startswith("journey: hello"))
    lines = {line.split("#")[0].strip() for line in shown.splitlines()}
    assert lines - written == {"match: {file: vip.csv, column: client}"}


def test_from_a_clone_to_a_revised_and_resumed_journey(tmp_path: Path) -> None:
    """Each command of the README's first two journeys succeeds as it is written, and their numbers are as it says."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    terminal, said = Terminal(tmp_path), {}
    first, waits = commands_of("The first journey"), commands_of("A journey that waits")
    place = first.index("journeys dev")
    for command in first[:place]:
        said[command] = terminal.type(command)
    with terminal.leave_running(first[place]):
        for command in first[place + 1 :] + waits:
            said[command] = terminal.type(command)
        ended = wait_for_the_end(terminal)
        before = one_object(terminal.type("journeys stats reminder --version 1 --json"))
        pushed = {
            user: [push["element"] for push in one_object(terminal.type(asked))["pushes"]]
            for user in (BUYER, NAMED)
            for asked in [f"journeys pushes reminder --user {user} --json"]
        }
    # The first version lets the audience in; whoever waited at the revision goes on in the second, and is reminded.
    assert before["entered"] == before["audience"] > before["moved_out"] == ended["moved_in"] > 0
    assert before["entered"] + before["moved_in"] == sum(before["exited"].values()) + before["moved_out"]
    assert (ended["audience"], ended["entered"], ended["inside"]) == (1, 1, 0)
    assert ended["exited"] == {"end": ended["moved_in"] + 1}
    assert before["elements"]["remind"]["arrived"] == 0
    assert ended["elements"]["remind"]["users"] == {"accepted": ended["elements"]["wait"]["branches"]["not_triggered"]}
    assert set(pushed[BUYER]) == {"thanks"}
    assert set(pushed[NAMED]) == {"remind"}
    (revised,) = (text for command, text in said.items() if "--inside move" in command)
    assert revised.splitlines()[-1].startswith("reminder v2 takes over and is paused; those inside go on in it; ")
    (planned,) = (text for command, text in said.items() if "plan reminder" in command)
    assert "- wait: what users do is not known before; others may arrive" in planned.splitlines()
    assert all(text.strip() for command, text in said.items() if command.startswith("journeys "))


def wait_for_the_end(terminal: Terminal) -> dict[str, Any]:
    """Give the last numbers, when nobody is inside."""
    deadline = time.monotonic() + 60
    while True:
        found = one_object(terminal.type("journeys stats reminder --json"))
        if found["inside"] == 0:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
