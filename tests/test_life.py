"""A journey's life: paused, resumed, revised, finished, and nobody lost; the numbers add up over all versions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.life import stats_of
from activities.operating import OperatingActivities
from activities.records import gate
from activities.records.reports import explain, list_pushes
from activities.records.rows import held, passages
from activities.records.statistics import everybody_inside
from tests.commands import Commands
from tests.house import House, at_rest, events_of
from tests.test_events import rows
from workers.engine import JourneyFailed
from workers.operating import Operator
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    USERS_QUEUE,
    FinishRequest,
    Leave,
    LifeRequest,
    MoveRequest,
    Outcome,
    ResumeRequest,
    ReviseRequest,
    Stats,
    TakeOutRequest,
    Visit,
    user_workflow_id,
)
from workflows.errors import JourneyError, NotWarm

DAY = timedelta(days=1)

SLOW = """\
journey: slow
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: wait}
elements:
  wait: {kind: time-delay, duration: 30d, next: promo}
  promo: {kind: push, message: {title: First, body: b}, next: rest}
  rest: {kind: time-delay, duration: 10d, next: done}
  done: {kind: exit}
"""
"""u1, u2, u4 and u6 enter and wait for 30 days."""

SENDING = """\
journey: slow
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: promo}
elements:
  promo: {kind: push, message: {title: First, body: b}, next: wait}
  wait: {kind: time-delay, duration: 30d, next: done}
  done: {kind: exit}
"""
"""The same users are pushed, and wait then."""

PAYING = ("u1", "u2", "u4", "u6")


async def until(check: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(house: House, text: str = SLOW, journey: str = "slow") -> AsyncIterator[tuple[Client, Operator]]:
    """Have a journey running with its whole audience inside, each at rest."""
    house.save(text)
    async with house.serving() as client:
        await house.engine.start(journey, client=client)
        for user in PAYING:
            await at_rest(client, client.get_workflow_handle(user_workflow_id(journey, user)))
        yield client, Operator(client, journey)


def numbers(house: House, version: int = 0, journey: str = "slow") -> Stats:
    """Count, and hold the count to the laws."""
    stats = stats_of(house.stores, journey, version)
    assert stats.audience == stats.entered + sum(stats.refused.values())
    assert stats.entered + stats.moved_in == stats.inside + sum(stats.exited.values()) + stats.moved_out
    for element in stats.elements.values():
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values())
        assert element.inside >= 0
    assert sum(element.inside for element in stats.elements.values()) == stats.inside
    return stats


def titles(house: House) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for push in list_pushes(house.stores.ledger.database, journey="slow").pushes:
        found.setdefault(push.user_id, []).append(push.title)
    return found


async def test_a_pause_freezes_and_resuming_lets_go(house: House) -> None:
    """What falls due in a pause is not sent; resumed, it goes out at once, and who met no pause is not woken."""
    async with running(house) as (client, operator):
        report = await operator.pause()
        assert (report.state, report.inside) == ("paused", 4)
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(house.stores.gate.held_by("slow", 1)))
        assert [user for _, _, user, _ in house.stores.gate.held_by("slow", 1)] == ["u1"]
        await asyncio.sleep(0.5)
        assert (titles(house), numbers(house).inside, numbers(house).state) == ({}, 4, "paused")
        resumed = await operator.resume(ResumeRequest())
        assert (resumed.state, resumed.signalled) == ("running", 1)
        await until(lambda: "u1" in titles(house))
        assert titles(house) == {"u1": ["First", "First"]}
        assert numbers(house).elements["wait"].inside == 3


async def test_resuming_may_skip_what_fell_due(house: House) -> None:
    """With `skip` a push that was held is not sent, says so, and the user goes on."""
    async with running(house) as (client, operator):
        await operator.pause()
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(house.stores.gate.held_by("slow", 1)))
        await operator.resume(ResumeRequest(due="skip"))
        await until(lambda: numbers(house).elements["rest"].inside == 1)
        assert titles(house) == {}
        assert numbers(house).elements["promo"].users == {"skipped: paused": 1}


async def test_a_shift_lasts_as_long_as_the_pause(house: House) -> None:
    """With `shift` what fell due in a pause is due as much later as the pause lasted."""
    async with running(house) as (client, operator):
        await operator.pause()
        # So that the delay ends by itself a little later, and not in the middle of what is skipped.
        await house.pass_time(client, "slow", "u1", 30 * DAY - timedelta(seconds=10))
        await until(lambda: bool(house.stores.gate.held_by("slow", 1)))
        await operator.resume(ResumeRequest(due="shift"))
        await until(lambda: "u1" in titles(house))
        kinds = await events_of(client, "journey/slow/user/u1")
        resumed = kinds.index("workflow_execution_signaled")
        assert kinds[:resumed].count("timer_started") == 1
        assert "timer_fired" in kinds[resumed:], "held, put off by a timer, and only then sent"


async def test_moves_that_make_no_sense_are_refused(house: House) -> None:
    """Each move that the state does not allow is refused with the reason, and changes nothing."""
    async with running(house) as (_, operator):
        with pytest.raises(JourneyFailed, match="not paused"):
            await operator.resume(ResumeRequest())
        await operator.pause()
        with pytest.raises(JourneyFailed, match="paused already"):
            await operator.pause()
        with pytest.raises(JourneyFailed, match="not inside"):
            await operator.remove(TakeOutRequest(user_id="u5"))
        await operator.finish(FinishRequest())
        for refused in (operator.pause(), operator.finish(FinishRequest()), operator.revise(ReviseRequest())):
            with pytest.raises(JourneyFailed, match="finished"):
                await refused
        with pytest.raises(JourneyError, match="does not run"):
            await Operator(operator._client, "hello").pause()
        assert numbers(house).inside == 4


async def test_finishing_with_an_end(house: House) -> None:
    """Those inside leave with the reason `finished`, their runs complete, and so does the journey."""
    async with running(house) as (client, operator):
        report = await operator.finish(FinishRequest(inside="end"))
        assert (report.state, report.inside, report.signalled) == ("finished", 0, 4)
        stats: Any = await asyncio.wait_for(client.get_workflow_handle("journey/slow").result(), 20)
        assert (stats["exited"], stats["elements"]["wait"]["left"]) == ({"finished": 4}, {"finished": 4})
        for user in PAYING:
            result = await asyncio.wait_for(client.get_workflow_handle(f"journey/slow/user/{user}").result(), 20)
            assert result["reason"] == "finished"
        numbers(house)


async def test_one_user_is_taken_out(house: House) -> None:
    """A user who is removed leaves where he is, at once; nobody else does."""
    async with running(house) as (client, operator):
        await operator.remove(TakeOutRequest(user_id="u2", reason="asked to"))
        result = await asyncio.wait_for(client.get_workflow_handle("journey/slow/user/u2").result(), 20)
        assert result["reason"] == "asked to"
        assert (numbers(house).exited, numbers(house).inside) == ({"asked to": 1}, 3)


async def test_a_removal_that_is_tried_again(house: House) -> None:
    """Tried again, a removal of nobody is refused, and one that was written down tells the run that never heard."""
    async with running(house) as (client, _):
        given = LifeRequest(journey="slow", launch="", now=datetime.now(UTC), version=1)
        environment = ActivityEnvironment(client=client)
        environment.info = replace(environment.info, attempt=2)
        take_out = OperatingActivities(house.stores).take_out
        nobody = given.model_copy(update={"take_out": TakeOutRequest(user_id="u5")})
        with pytest.raises(ApplicationError, match="not inside"):
            await environment.run(take_out, nobody)
        (own,) = everybody_inside(house.stores.ledger.database, "slow", "u2")
        await house.stores.ledger.close({own.passage: Leave(exit="", reason="asked to")}, given.now)
        asked = TakeOutRequest(user_id="u2", reason="asked to")
        report = await environment.run(take_out, given.model_copy(update={"take_out": asked}))
        assert (report.signalled, report.inside) == (1, 3)
        result = await asyncio.wait_for(client.get_workflow_handle("journey/slow/user/u2").result(), 20)
        assert result["reason"] == "asked to"


def explained(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `journeys explain slow u1` says, each row without its instant."""
    monkeypatch.setenv("JOURNEYS_HOME", str(house.settings.home))
    said = Commands(house.settings.home.parent)("explain", "slow", "u1")
    assert said.status == 0, said
    return [" ".join(word for word in line.split() if not re.match(r"\d{4}-", word)) for line in said.out.splitlines()]


async def test_one_user_is_sent_elsewhere(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is moved goes on at the element named, at once, and the numbers add up; nobody else moves."""
    async with running(house) as (_, operator):
        with pytest.raises(JourneyFailed, match="no element 'nowhere'"):
            await operator.move(MoveRequest(user_id="u1", element="nowhere"))
        await operator.move(MoveRequest(user_id="u1", element="promo"))
        await until(lambda: "u1" in titles(house))
        await until(lambda: numbers(house).elements["rest"].inside == 1)
        await operator.move(MoveRequest(user_id="u1", element="done"))
        await until(lambda: numbers(house).exited == {"end": 1})
        assert (numbers(house).moved_in, numbers(house).moved_out, numbers(house).inside) == (2, 2, 3)
        assert titles(house) == {"u1": ["First", "First"]}
        said = await asyncio.to_thread(explained, house, monkeypatch)
        assert [line for line in said if " moved " in f"{line} "] == [
            "wait moved by an operator, to 'promo'",
            "rest moved by an operator, to 'done'",
        ]
        assert said.index("wait moved by an operator, to 'promo'") < next(
            place for place, line in enumerate(said) if line.startswith("promo Push")
        )


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


async def test_finishing_wakes_who_is_held_still(house: House) -> None:
    """A finish whose worker died after the resumption was committed wakes those held when it is tried again."""
    async with running(house) as (client, operator):
        await operator.pause()
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(rows(house, held)))
        await house.stores.gate.resume("slow", "now", datetime.now(UTC))
        assert (await operator.finish(FinishRequest())).signalled == 1
        await until(lambda: "u1" in titles(house))


async def test_a_pause_is_met_at_the_claim(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that was let through before a pause, and was slow, is held at its claim: nothing is sent any more."""
    house.hold_pushes()
    monkeypatch.setattr(gate, "COPY_SECONDS", 60.0)
    monkeypatch.setattr(gate, "TRUST_SECONDS", 180.0)
    house.save(SENDING)
    async with house.serving((JOURNEYS_QUEUE, USERS_QUEUE)) as client:
        await house.engine.start("slow", client=client)
        await until(lambda: len([row for row in rows(house, passages) if row.begun_at]) == 4)
        await house.stores.gate.renew()
        await house.stores.gate.pause("slow", datetime.now(UTC))
        async with house.serving((PUSH_QUEUE,)):
            await until(lambda: len(rows(house, held)) == 3)
    assert titles(house) == {}


async def test_a_start_after_one_that_was_terminated_in_a_pause_wakes_the_held(house: House) -> None:
    """Whom a pause held whose journey was then terminated goes on when the journey is started again."""
    async with running(house) as (client, operator):
        await operator.pause()
        await house.pass_time(client, "slow", "u1", 31 * DAY)
        await until(lambda: bool(rows(house, held)))
        await client.get_workflow_handle("journey/slow").terminate("an operator")
        await house.engine.start("slow", client=client)
        await until(lambda: "u1" in titles(house))
        assert numbers(house).inside == 4
