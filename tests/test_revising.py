"""Revising: those inside go on in the new version, finish theirs or leave; whatever comes between, nobody is lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from activities.life import stats_of
from activities.records import gate
from activities.records.reports import explain
from activities.records.rows import held, passages
from activities.records.statistics import everybody_inside
from tests.house import House
from tests.slow_journey import DAY, SENDING, SLOW, explained, numbers, running, titles
from tests.test_events import rows
from tests.worker_that_dies import until
from workers.engine import JourneyFailed
from workers.operating import Operator
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, Outcome, ResumeRequest, ReviseRequest, Visit
from workflows.errors import NotWarm


async def test_revising_moves_those_inside(house: House) -> None:
    """Those inside go on in the new version: a wait that is unchanged ends when it would have, with the new texts."""
    async with running(house) as (client, operator):
        await house.pass_time(client, "slow", "u1", 10 * DAY)
        house.save(SLOW.replace("First", "Second"))
        report = await operator.revise(ReviseRequest(inside="move"))
        assert (report.version, report.elements, report.signalled) == (2, {"wait": 4}, 0)
        await house.pass_time(client, "slow", "u1", 21 * DAY)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["Second", "Second"]}
        before, after = numbers(house, 1), numbers(house, 2)
        assert (before.entered, before.inside, before.moved_out) == (4, 3, 1)
        assert (after.entered, after.inside, after.moved_in) == (0, 1, 1)


async def test_revised_in_a_pause_and_resumed(house: House) -> None:
    """Who is held after a revision in the middle of a pause goes on with the resumption, in the new version."""
    async with running(house) as (client, operator):
        await operator.pause()
        house.save(SLOW.replace("First", "Second"))
        assert (await operator.revise(ReviseRequest(inside="move"))).state == "paused"
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(house.stores.gate.held_by("slow", 1)))
        assert titles(house) == {}
        assert (await operator.resume(ResumeRequest())).signalled == 1
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["Second", "Second"]}
        assert (numbers(house, 2).moved_in, numbers(house, 2).elements["rest"].inside) == (1, 1)


async def test_an_element_that_was_removed_needs_a_mapping(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that leaves users without a place is refused; with a mapping they go on at the other element."""
    later = SLOW.replace("  wait: {kind: time-delay, duration: 30d, next: promo}\n", "").replace(
        "next: wait", "next: promo"
    )
    async with running(house) as (_, operator):
        house.save(later)
        with pytest.raises(JourneyFailed, match="users are at 'wait'"):
            await operator.revise(ReviseRequest(inside="move"))
        assert stats_of(house.stores, "slow").version == 1
        report = await operator.revise(ReviseRequest(inside="move", mapping={"wait": "promo"}))
        assert report.signalled == 4
        await until(lambda: len(titles(house)) == 3)
        await until(lambda: numbers(house, 2).elements["rest"].inside == 4)
        assert (numbers(house, 1).inside, numbers(house, 2).moved_in) == (0, 4)
        assert numbers(house, 1).elements["wait"].left == {"moved": 4}
        (run,) = explain(house.stores.ledger.database, "slow", "u1").runs
        (move,) = run.moves
        assert (move.from_version, move.from_element, move.to_version, move.to_element) == (1, "wait", 2, "promo")
        assert [(step.step >= move.step, step.version, step.element) for step in run.steps] == [(True, 2, "promo")]
        said = await asyncio.to_thread(explained, house, monkeypatch)
        assert "wait moved from version 1 to version 2, to 'promo'" in said


async def test_revising_may_keep_or_end(house: House) -> None:
    """With `keep` those inside finish their version; with `end` they leave with the reason `revised`."""
    async with running(house) as (client, operator):
        house.save(SLOW.replace("First", "Second"))
        await operator.revise(ReviseRequest(inside="keep"))
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["First", "First"]}
        house.save(SLOW.replace("First", "Third"))
        report = await operator.revise(ReviseRequest(inside="end"))
        assert report.signalled == 4
        await until(lambda: numbers(house, 1).inside == 0)
        assert numbers(house, 1).exited == {"revised": 4}


async def test_a_move_that_its_run_has_not_heard_of(house: House) -> None:
    """A worker dies after it wrote a move down, then comes a second revision: the user goes on, and all adds up."""
    renamed = SLOW.replace("wait", "hold").replace("First", "Second")
    async with running(house) as (client, operator):
        house.save(renamed)
        await operator.revise(ReviseRequest(inside="move", mapping={"wait": "hold"}))
        (own,) = everybody_inside(house.stores.ledger.database, "slow", "u1")
        digest = house.stores.catalogue.find("journey", "slow", 1).digest
        visit = Visit(
            journey="slow",
            version=1,
            digest=digest,
            passage=own.passage,
            step=1,
            element="wait",
            user_id="u1",
            now=datetime.now(UTC),
        )
        assert await house.stores.ledger.move(visit, 2, "hold", None, keeps=True) is None
        with pytest.raises(NotWarm, match="version 2 has taken over from version 1"):
            await house.stores.ledger.record(visit, Outcome(branch="next"), outcome="next")
        house.save(renamed.replace("hold", "stay").replace("Second", "Third"))
        mapping = {"wait": "stay", "hold": "stay"}
        report = await operator.revise(ReviseRequest(inside="move", mapping=mapping))
        assert (report.elements, report.signalled) == ({"hold": 1, "wait": 3}, 0)
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["Third", "Third"]}
        moved = [(numbers(house, one).moved_in, numbers(house, one).moved_out) for one in (1, 2, 3)]
        assert moved == [(0, 1), (0, 0), (1, 0)]


async def test_a_revision_in_a_pause_loses_nobody(house: House) -> None:
    """Who is held after a revision that came in the pause is woken like everybody whom that pause held."""
    async with running(house) as (client, operator):
        await operator.pause()
        house.save(SLOW.replace("duration: 10d", "duration: 11d"))
        assert (await operator.revise(ReviseRequest(inside="keep"))).state == "paused"
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(rows(house, held)))
        assert (await operator.resume(ResumeRequest(due="skip"))).signalled == 1
        await until(lambda: numbers(house, 1).elements["promo"].users == {"skipped: paused": 1})


async def test_a_later_keep_takes_no_move_back(house: House) -> None:
    """Whom a revision moves goes on in its version, although a later revision that keeps everybody came before."""
    async with running(house) as (client, operator):
        house.save(SLOW.replace("First", "Second"))
        await operator.revise(ReviseRequest(inside="move"))
        house.save(SLOW.replace("First", "Third"))
        await operator.revise(ReviseRequest(inside="keep"))
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["Second", "Second"]}
        assert (numbers(house, 1).moved_out, numbers(house, 2).moved_in, numbers(house, 3).moved_in) == (1, 1, 0)


async def test_the_same_version_may_move_who_was_kept(house: House) -> None:
    """Those whom a revision kept are moved by naming the same version again: nothing is said to be done and is not."""
    async with running(house) as (client, operator):
        house.save(SLOW.replace("First", "Second"))
        await operator.revise(ReviseRequest(inside="keep"))
        await operator.revise(ReviseRequest(inside="move"))
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["Second", "Second"]}
        assert (numbers(house, 1).moved_out, numbers(house, 2).moved_in) == (1, 1)


async def test_who_comes_to_rest_while_a_revision_spreads_is_moved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins a changed wait by a copy that does not know of the revision yet is told of it, and moves."""
    monkeypatch.setattr(gate, "COPY_SECONDS", 2.5)
    house.save(SENDING)
    async with house.serving((JOURNEYS_QUEUE, USERS_QUEUE)) as client:
        await house.engine.start("slow", client=client)
        await until(lambda: len([row for row in rows(house, passages) if row.begun_at]) == 4)
        house.save(SENDING.replace("30d", "40d"))
        await house.stores.gate.renew()
        revising = asyncio.create_task(Operator(client, "slow").revise(ReviseRequest(inside="move")))
        await until(lambda: stats_of(house.stores, "slow").version == 2)
        async with house.serving((PUSH_QUEUE,)):
            await until(lambda: numbers(house, 1).elements["wait"].inside > 0)
            await revising
            await until(lambda: numbers(house, 2).elements["wait"].inside == 4)
    assert (numbers(house, 1).inside, numbers(house, 1).moved_out) == (0, 4)
