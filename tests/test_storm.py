"""The storm: everything is killed, cut off and changed under a running journey, and nobody is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from temporalio.client import Client

from activities.records.rows import passages, pushes, steps
from scripts.storm_plan import LONG, SHORT, STROKES, plan_storm
from scripts.storm_proof import Expected, Findings, Proof
from scripts.storm_receiver import Counted
from tests.house import House

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 420
"""A short storm takes some 150 s where two cores are free."""


@pytest.mark.storm
@pytest.mark.timeout(900)
def test_a_short_storm_loses_nobody() -> None:
    """A short storm, in which each kind of fault comes: every number is proved, and the exit status is 0."""
    words = [sys.executable, "-m", "scripts.storm", "--short", "--seed", "1", "--json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as storm:
        try:
            out, err = storm.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            storm.terminate()  # it stops what it has started
            pytest.fail(f"after {LONGEST_SECONDS} s it is at: {storm.communicate()[1]}")
    found = json.loads(out)
    assert (storm.returncode, found["losses"], found["ok"]) == (0, [], True), err
    assert (found["seed"], found["users"]) == (1, SHORT.users)
    assert {kind: number for kind, number in found["strokes"].items() if number} == {
        kind: times for kind, (times, _, _) in STROKES.items()
    }
    proved = found["found"]["with everybody out"]
    assert proved["entered"] > SHORT.users / 2
    assert (proved["inside"], proved["marketing_taken_twice"]) == ({}, 0)
    assert proved["taken"] > proved["entered"]
    assert min(found["found"]["starts"].values()) > 1, "each process was killed, and started again"


def test_a_storm_is_decided_by_its_seed() -> None:
    """The same seed gives the same strokes, another seed others; each kind comes, in a long storm more often."""
    assert plan_storm(7, SHORT) == plan_storm(7, SHORT) != plan_storm(8, SHORT)
    for size in (SHORT, LONG):
        plan = plan_storm(7, size)
        assert {stroke.kind for stroke in plan} == set(STROKES)
        assert all(0 <= stroke.at <= size.seconds for stroke in plan)
        assert [stroke.at for stroke in plan] == sorted(stroke.at for stroke in plan)
    assert len(plan_storm(7, LONG)) > 3 * len(plan_storm(7, SHORT))


@pytest.mark.parametrize("words", [["--seed", "x"], ["--users", "1"]])
def test_a_wrong_use_is_refused(words: list[str]) -> None:
    """Wrong arguments: exit status 2, and nothing is started."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.storm", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words[1] in done.stderr


def test_a_storm_keeps_off_real_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a setting names somebody's real parts, nothing is started, and the setting is named."""
    monkeypatch.setenv("JOURNEYS_DATABASE", "sqlite:////nowhere/ledger.db")
    words = [sys.executable, "-m", "scripts.storm", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "JOURNEYS_DATABASE" in json.loads(done.stdout)["errors"][0]["message"]


class Proved:
    """A journey that ended well, with what its provider would have counted; each test breaks one thing of it."""

    def __init__(self, house: House, client: Client, counts: Path) -> None:
        self.house, self.client, self.counts = house, client, counts
        self.expected = Expected(audience={"u1", "u2", "u4", "u6"}, reachable={"u1", "u4", "u6"})

    async def losses(self) -> list[str]:
        proof = Proof(self.house.stores, self.client, self.counts, "hello", self.expected)
        found: Findings = await proof.find(inside=set())
        return found.losses

    def write(self, statement: Any) -> None:
        self.house.stores.ledger.database.write_now(lambda connection: connection.execute(statement))

    def count(self, key: str, **given: Any) -> None:
        with self.counts.open("a") as file:
            file.write(Counted(key=key, taken=True, mood="takes", **given).model_dump_json() + "\n")

    def rows(self, table: Any) -> list[Any]:
        database = self.house.stores.ledger.database
        return list(database.read(lambda connection: connection.execute(table.select()).all()))


def _twice(proved: Proved) -> None:
    proved.count(proved.rows(pushes)[0].push_id)


def _stranger(proved: Proved) -> None:
    proved.count("a push that nobody claimed")


def _forged(proved: Proved) -> None:
    proved.count(proved.rows(pushes)[0].push_id, forged=True)


def _never_got(proved: Proved) -> None:
    proved.counts.write_text("\n".join(proved.counts.read_text().splitlines()[1:]) + "\n")


def _claimed(proved: Proved) -> None:
    proved.write(update(pushes).values(outcome="claimed"))


def _refused_and_got(proved: Proved) -> None:
    proved.write(update(pushes).values(outcome="gave-up"))


def _step_missing(proved: Proved) -> None:
    proved.write(delete(steps).where(steps.c.element == "loyal"))


def _other_branch(proved: Proved) -> None:
    proved.write(update(steps).where(steps.c.element == "loyal").values(branch="all_other_users"))


def _still_inside(proved: Proved) -> None:
    proved.write(update(passages).where(passages.c.user_id == "u6").values(closed_at=None))


def _other_end(proved: Proved) -> None:
    proved.write(update(passages).where(passages.c.user_id == "u6").values(exit=None, reason="removed"))


def _passage_missing(proved: Proved) -> None:
    proved.write(delete(passages).where(passages.c.user_id == "u6"))


def _missed(proved: Proved) -> None:
    proved.expected.audience.add("u3")


def _let_in_by_nobody(proved: Proved) -> None:
    proved.expected.audience.discard("u2")


def _found_without_device(proved: Proved) -> None:
    proved.expected.reachable.add("u2")


BROKEN: dict[str, Callable[[Proved], None]] = {
    "got 'promo' 2 times": _twice,
    "of which the ledger knows nothing": _stranger,
    "wrong signature or key": _forged,
    "taken it 0 times": _never_got,
    "stays claimed": _claimed,
    "gave-up in the ledger, and the provider has taken it 1 times": _refused_and_got,
    "not at 'loyal' v1": _step_missing,
    "took 'all_other_users' against the tables": _other_branch,
    "u6: inside at": _still_inside,
    "u6: left at None with 'removed'": _other_end,
    "'journey/hello/user/u6' has no passage": _passage_missing,
    "u3 was in the audience and never entered": _missed,
    "u2 entered, and nobody let him": _let_in_by_nobody,
    "u2 was found without a device": _found_without_device,
}


async def test_the_proof_finds_each_loss(house: House, tmp_path: Path) -> None:
    """After a good journey the proof finds nothing; with any one thing broken, it tells that thing."""
    async with house.serving() as client:
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        counts = tmp_path / "counts.jsonl"
        good = Proved(house, client, counts)
        for row in good.rows(pushes):
            good.count(row.push_id)
        assert await good.losses() == []
        saved, kept = counts.read_text(), {table: good.rows(table) for table in (passages, steps, pushes)}
        for told, break_it in BROKEN.items():
            proved = Proved(house, client, counts)
            break_it(proved)
            losses = await proved.losses()
            assert any(told in loss for loss in losses), (told, losses)
            counts.write_text(saved)
            for table, rows in kept.items():
                proved.write(delete(table))
                proved.write(table.insert().values([row._asdict() for row in rows]))
        assert await good.losses() == []
