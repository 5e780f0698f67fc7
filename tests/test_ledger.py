"""The ledger: the first answer wins, a passage is left once, and the numbers add up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from activities.life import stats_of
from activities.records.admissions import Arrival
from activities.records.ledger import Ledger
from activities.records.rows import passages, steps
from tests.house import House
from tests.test_admission import HOUR, NOW, admit_one, arrival, rows
from workflows.contracts import Leave, Outcome, Visit


def visit(passage: str, step: int = 1, **changed: Any) -> Visit:
    given = {"journey": "j", "version": 1, "digest": "d", "element": "split", "user_id": "u1", "now": NOW}
    return Visit(**{**given, "passage": passage, "step": step, **changed})


async def test_the_first_answer_wins(ledger: Ledger) -> None:
    """60 answers to one step at once: all callers get the one that is stored, with its leave alone."""
    passage = (await admit_one(ledger, arrival())).passage

    async def answer(number: int) -> Outcome:
        given = Outcome(branch=f"b{number}", because=f"n{number}", left=Leave(exit=f"x{number}", reason="end"))
        return await ledger.record(visit(passage), given, outcome="accepted")

    answers = await asyncio.gather(*(answer(number) for number in random.Random(7).sample(range(60), 60)))
    (step,) = rows(ledger.database, steps)
    number = step.branch.removeprefix("b")
    stored = Outcome(branch=f"b{number}", because=f"n{number}", left=Leave(exit=f"x{number}", reason="end"))
    assert all(one == stored for one in answers)
    (row,) = rows(ledger.database, passages)
    assert (row.exit, row.reason) == (f"x{number}", "end")
    later = await ledger.record(visit(passage, now=NOW + HOUR), Outcome(branch="late"), outcome="late")
    assert later == stored


async def test_leaving_happens_once(ledger: Ledger) -> None:
    """A passage that is closed keeps its first reason, whether its run or the reconciler closes it again."""
    passage = (await admit_one(ledger, arrival())).passage
    await ledger.close({passage: Leave(exit="", reason="terminated")}, NOW)
    answer = Outcome(branch="next", left=Leave(exit="done", reason="end"))
    await ledger.record(visit(passage), answer, outcome="next")
    await ledger.close({passage: Leave(exit="", reason="failed")}, NOW + HOUR)
    (row,) = rows(ledger.database, passages)
    assert (row.exit, row.reason, row.closed_at) == (None, "terminated", "2026-03-01T12:00:00.000000Z")


class Crowd:
    """Writes a random life of many users into a ledger, and keeps its own count of how they left."""

    def __init__(self, house: House, seed: int) -> None:
        self.dice = random.Random(seed)
        self.version = house.stores.catalogue.find("journey", "hello").version
        self.ledger = house.stores.ledger
        self.inside: dict[str, str] = {}
        self.refused = 0
        self.left: Counter[str] = Counter()

    async def enter(self, enrolment: str) -> None:
        where = Arrival(enrolment, "hello", self.version, "start", "after_exit", NOW)
        page = self.dice.sample([f"n{number}" for number in range(40)], 30)
        for admission in await self.ledger.admit(where, page):
            if admission.refused:
                self.refused += 1
            else:
                self.inside[admission.passage] = admission.user_id

    async def live(self, passage: str) -> None:
        """Have one user stay, get somewhere, leave by an exit, or be stopped where he is."""
        how = self.dice.choice(["stay", "loyal", "promo", "done", "stopped", "stopped in promo"])
        if how == "done":
            await self._step(passage, 1, "loyal", Outcome(branch="all_other_users", left=DONE))
        if how in ("loyal", "promo", "stopped in promo"):
            await self._step(passage, 1, "loyal", Outcome(branch="users_in_segment"))
        if how == "promo":
            await self._step(passage, 2, "promo", Outcome(branch="next", left=DONE))
        if how.startswith("stopped"):
            await self.ledger.close({passage: Leave(exit="", reason="terminated")}, NOW)
            self._gone(passage, "terminated")

    async def _step(self, passage: str, step: int, element: str, answer: Outcome) -> None:
        where = visit(passage, step, journey="hello", element=element, user_id=self.inside[passage])
        stored = await self.ledger.record(where, answer, outcome="x")
        if stored.left is not None:  # Else the user went another way before, which wins.
            self._gone(passage, "end")

    def _gone(self, passage: str, reason: str) -> None:
        self.left[reason] += 1
        del self.inside[passage]


DONE = Leave(exit="done", reason="end")


@pytest.mark.parametrize("seed", range(12))
async def test_the_numbers_add_up(house: House, seed: int) -> None:
    """Whatever mix of refusals, visits, ends and terminations the ledger holds, the laws of the numbers are kept."""
    await require_sums(house, seed)


async def require_sums(house: House, seed: int) -> None:
    crowd = Crowd(house, seed)
    for enrolment in ("a", "b"):
        await crowd.enter(enrolment)
        for passage in [one for one in crowd.inside if crowd.dice.random() < 0.9]:
            await crowd.live(passage)
    stats = stats_of(house.stores, "hello")
    assert (stats.exited, stats.inside) == (crowd.left, len(crowd.inside))
    assert (sum(stats.refused.values()), stats.audience) == (crowd.refused, 60)
    assert stats.audience == stats.entered + crowd.refused
    assert stats.entered == stats.inside + sum(stats.exited.values())
    for element in stats.elements.values():
        assert min(element.arrived, element.inside, *element.branches.values(), *element.left.values()) >= 0
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values())
    assert sum(element.inside for element in stats.elements.values()) == stats.inside
    assert sum((Counter(element.left) for element in stats.elements.values()), Counter()) == crowd.left
