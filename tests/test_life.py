"""A journey's life: paused, resumed, finished, its users taken out or sent elsewhere; nobody is lost, all adds up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.operating import OperatingActivities
from activities.records import gate
from activities.records.rows import held, passages
from activities.records.statistics import everybody_inside
from tests.house import House, events_of
from tests.slow_journey import DAY, PAYING, SENDING, explained, numbers, running, titles
from tests.test_events import rows
from tests.worker_that_dies import until
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
    ResumeRequest,
    ReviseRequest,
    TakeOutRequest,
)
from workflows.errors import JourneyError


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
