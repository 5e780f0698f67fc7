"""The demo: one command from nothing to a funnel, whose numbers are those of the files it imported."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, one_object

USERS = 300


def demo(home: Path, *more: str) -> subprocess.Popen[str]:
    """Start the demo as a person would, with its state in a folder of the test."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.demonstration", "--exit", "--users", str(USERS), "--home", str(home), *more],
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a demo with --json, and read its one object."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return one_object(out)


@dataclass
class Counted:
    """What a plain count over the files gives."""

    audience: int
    vip: int
    users: Counter[str]
    devices: int


def counted(folder: Path, as_of: datetime) -> Counted:
    """Count what the journey must do, by the csv module alone."""

    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    bought = {
        row["user_id"]
        for row in rows("events.csv")
        if row["event"] == "purchase" and as_of - timedelta(days=90) <= datetime.fromisoformat(row["at"]) <= as_of
    }
    audience = {row["user_id"] for row in rows("users.csv") if row["plan"] in ("paid", "pro")} & bought
    vip = {row["client"] for row in rows("vip.csv")} & audience
    reachable = [row for row in rows("devices.csv") if row["opt_in"] == "true" and row["user_id"] in vip]
    reached = {row["user_id"] for row in reachable}
    outcomes = Counter({"accepted": len(reached), "skipped: no-reachable-device": len(vip - reached)})
    return Counted(len(audience), len(vip), outcomes, len(reachable))


def hold(stats: dict[str, Any], expected: Counted) -> None:
    """Compare a demo's numbers with a count, each of them."""
    assert 0 < expected.users["accepted"] < expected.vip < expected.audience < USERS
    assert {
        name: stats[name] for name in ("journey", "version", "state", "audience", "entered", "refused", "inside")
    } == {
        **{"journey": "hello", "version": 1, "state": "finished", "refused": {}, "inside": 0},
        **{"audience": expected.audience, "entered": expected.audience},
    }
    assert stats["exited"] == {"end": expected.audience}
    split, push, end = (stats["elements"][name] for name in ("vip", "thanks", "done"))
    others = expected.audience - expected.vip
    assert split["arrived"] == expected.audience
    assert split["branches"] == {"users_in_segment": expected.vip, "all_other_users": others}
    assert (push["arrived"], push["branches"]) == (expected.vip, {"next": expected.vip})
    assert push["users"] == dict(expected.users)
    assert push["devices"] == {"accepted": expected.devices}
    assert (end["arrived"], end["left"]) == (expected.audience, {"end": expected.audience})


def files(folder: Path) -> set[str]:
    """The project's own demos, which no test may touch."""
    return {path.name for path in folder.glob("demo*")} if folder.exists() else set()


def test_two_demos_at_once_count_as_the_files_do(tmp_path: Path) -> None:
    """Two demos at once, beside a server on the default port, each print the numbers that a plain count gives."""
    before = files(ROOT / ".journeys")
    home = tmp_path / "state"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # taken by a real server already: just as well
            taken.bind(("127.0.0.1", 7233))
            taken.listen()
        with demo(home, "--json") as one, demo(home, "--json") as two:
            found = [told(one), told(two)]
    folders = sorted(path for path in home.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["demo", "demo-2"]
    for stats in found:
        as_of = datetime.fromisoformat(stats["as_of"])
        hold(stats, counted(folders[0] / "sample", as_of.astimezone(UTC)))
        assert stats["seconds"] > 0
        assert stats["users_per_second"] == pytest.approx(stats["audience"] / stats["seconds"], rel=0.05)
    assert files(ROOT / ".journeys") == before
    again = demo(home, "--users", "150")  # for people, in the home of the first, which is over
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["demo", "demo-2"]
    expected = counted(home / "demo/sample", datetime.now(UTC))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith(f"-> Users in a segment {expected.vip} ") for line in lines)
    assert any(line.startswith(f"-> All other users {expected.audience - expected.vip} ") for line in lines)
    assert any("/namespaces/default/workflows" in line for line in lines)
    tried = [line for line in lines if line.startswith("JOURNEYS_HOME=")]
    assert len(tried) == 3
    for line in tried:  # they are exact: each works as it is printed, in the folder where the demo was run
        environment, _, *words = line.split()
        name, value = environment.split("=", 1)
        said = subprocess.run(
            [sys.executable, "-m", "scripts.cli", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said
        assert said.stdout.strip()


@pytest.mark.parametrize("words", [["--users", "0"], ["--users", "many"], ["--nope"]])
def test_a_wrong_use_of_the_demo_is_refused(tmp_path: Path, words: list[str]) -> None:
    """Wrong arguments: exit status 2, and nothing is started."""
    process = demo(tmp_path / "state", *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert words[0] in err
    assert not (tmp_path / "state").exists()
