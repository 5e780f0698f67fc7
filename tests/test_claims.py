"""Claims of pushes, on both databases: nobody is sent a marketing push twice, and what is written down adds up."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from activities.push.claims import Cap, Claim, Claims
from activities.push.provider import Answer, Verdict
from activities.records.admissions import Arrival
from activities.records.ledger import Ledger
from activities.records.outcomes import ACCEPTED, CLAIMED, GAVE_UP, THROTTLED, UNKNOWN, WITHDRAWN
from activities.records.rows import pushes
from workflows.contracts import Leave, Outcome, Visit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANSWERS = {
    ACCEPTED: Answer(Verdict.ACCEPTED),
    THROTTLED: Answer(Verdict.RETRY, "429"),
    UNKNOWN: Answer(Verdict.UNKNOWN),
    "token-dead": Answer(Verdict.TOKEN_DEAD, "410"),
}


class Pushing:
    """One user's visit to a push, tried as often as a test likes."""

    def __init__(self, ledger: Ledger, passage: str, *, resend: bool = False, caps: tuple[Cap, ...] = ()) -> None:
        self.ledger, self.claims = ledger, Claims(ledger)
        self.resend, self.caps = resend, caps
        given = {"journey": "j", "version": 1, "digest": "d", "element": "promo", "user_id": "u1", "now": NOW}
        self.visit = Visit(**given, passage=passage, step=1)

    @classmethod
    async def entered(cls, ledger: Ledger, name: str = "e", **settings: Any) -> Pushing:
        """Have the user enter, and come to the push."""
        where = Arrival(name, "j", 1, "start", "after_exit", NOW, key=name)
        (admission,) = await ledger.admit(where, ["u1"])
        return cls(ledger, admission.passage, **settings)

    async def claim(self, **tokens: str) -> Claim:
        """Try to claim devices, each named with its token."""
        visit = self.visit
        own = {"passage": visit.passage, "step": 1, "journey": "j", "version": visit.version, "element": visit.element}
        own |= {"user_id": "u1", "at": "2026-03-01T12:00:00.000000Z", "provider": "apns", "outcome": CLAIMED}
        rows = [
            {**own, "device_id": device, "token": token, "title": "Hi", "message": "{}", "attempts": 1, "sent_at": None}
            for device, token in tokens.items()
        ]
        return await self.claims.claim(self.visit, rows, resend=self.resend, caps=self.caps, finish=finished, now=NOW)

    async def settle(self, *, give_up: bool = False, **outcomes: str) -> Outcome | None:
        """Record an answer for each device."""
        answers = {device: ANSWERS[outcome] for device, outcome in outcomes.items()}
        return await self.claims.settle(
            self.visit, answers, resend=self.resend, give_up=give_up, finish=finished, now=NOW
        )

    async def pass_over(self, outcome: str) -> Outcome:
        return await self.claims.pass_over(self.visit, Outcome(branch="next"), outcome=outcome, finish=finished)

    async def leave(self, reason: str) -> None:
        await self.ledger.close({self.visit.passage: Leave(exit="", reason=reason)}, NOW)

    @property
    def outcomes(self) -> dict[str, str]:
        """What the ledger says of each device."""
        query = select(pushes.c.device_id, pushes.c.outcome).where(pushes.c.passage == self.visit.passage)
        rows = self.ledger.database.read(lambda connection: connection.execute(query).all())
        return {row.device_id: row.outcome for row in rows}


def finished(outcomes: Counter[str]) -> tuple[Outcome, str]:
    said = " ".join(f"{outcome}:{number}" for outcome, number in sorted(outcomes.items()))
    return Outcome(branch="next", because=said), "sent"


async def test_who_is_taken_out_under_way_leaves_nothing_open(ledger: Ledger) -> None:
    """A user is taken out between claim and answer: nothing stays claimed, the answer counts, nothing is tried anew."""
    push = await Pushing.entered(ledger)
    assert (await push.claim(d1="t1", d2="t2", d3="t3")).send == ["d1", "d2", "d3"]
    await push.leave("removed")
    assert push.outcomes == {"d1": UNKNOWN, "d2": UNKNOWN, "d3": UNKNOWN}
    left = await push.settle(d1=ACCEPTED, d2=THROTTLED)
    assert left is not None
    assert left.left == Leave(exit="", reason="removed")
    assert push.outcomes == {"d1": ACCEPTED, "d2": WITHDRAWN, "d3": UNKNOWN}
    again = await push.claim(d1="t1", d2="t2", d3="t3")
    assert (again.send, again.stored) == ([], left)


async def test_who_leaves_between_two_tries_leaves_nothing_open(ledger: Ledger) -> None:
    """A user is taken out while a push waits for its next try: what was not sent is withdrawn."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1", d2="t2")
    assert await push.settle(d1=ACCEPTED, d2=THROTTLED) is None
    await push.leave("removed")
    assert push.outcomes == {"d1": ACCEPTED, "d2": WITHDRAWN}


@pytest.mark.parametrize(("skipped", "unsent"), [("skipped: paused", WITHDRAWN), (GAVE_UP, GAVE_UP)])
async def test_a_push_that_is_skipped_half_way_says_what_was_sent(ledger: Ledger, skipped: str, unsent: str) -> None:
    """Skipped after one device got it, the visit's outcome is that device's; skipped before any did, the reason."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1", d2="t2")
    await push.settle(d1=ACCEPTED, d2=THROTTLED)
    assert (await push.pass_over(skipped)).because == " ".join(sorted((f"{ACCEPTED}:1", f"{unsent}:1")))
    assert push.outcomes == {"d1": ACCEPTED, "d2": unsent}
    other = await Pushing.entered(ledger, "f")
    await other.claim(d1="t1")
    await other.settle(d1=THROTTLED)
    assert await other.pass_over(skipped) == Outcome(branch="next")
    assert other.outcomes == {"d1": unsent}


async def test_a_claim_that_nobody_answered_is_unknown_when_the_push_is_skipped(ledger: Ledger) -> None:
    """A worker dies under way, and the next try skips: the claim is unknown, and so is the user's outcome."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1")
    assert (await push.pass_over("skipped: no-reachable-device")).because == "unknown:1"
    assert push.outcomes == {"d1": UNKNOWN}


async def test_what_waits_for_its_next_try_makes_room_in_a_cap(ledger: Ledger) -> None:
    """While a push waits, another one fills the cap: the first is held back at its next try, and no cap is passed."""
    caps = (Cap(1, timedelta(days=1)),)
    waiting, other = await Pushing.entered(ledger, "e", caps=caps), await Pushing.entered(ledger, "f", caps=caps)
    await waiting.claim(d1="t1")
    await waiting.settle(d1=THROTTLED)
    assert (await other.claim(d1="t1")).send == ["d1"]
    await other.settle(d1=ACCEPTED)
    assert (await waiting.claim(d1="t1")).capped
    await waiting.pass_over("skipped: capped")
    assert (waiting.outcomes, other.outcomes) == ({"d1": WITHDRAWN}, {"d1": ACCEPTED})


async def test_a_device_that_is_gone_keeps_no_push_open(ledger: Ledger) -> None:
    """A transactional push whose answer never came is not tried again on a device that is gone: the visit is over."""
    push = await Pushing.entered(ledger, resend=True)
    await push.claim(d1="t1", d2="t2")
    assert (await push.claim(d1="t1")).send == ["d1"]
    assert push.outcomes == {"d1": CLAIMED, "d2": UNKNOWN}
    assert await push.settle(d1=ACCEPTED) is not None


async def test_an_address_gets_a_push_once(ledger: Ledger) -> None:
    """A phone that is registered anew between two tries is not sent what it got under its old name."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1", d2="t2")
    await push.settle(d1=ACCEPTED, d2=THROTTLED)
    assert (await push.claim(d9="t1", d2="t2")).send == ["d2"]
    await push.settle(d2=ACCEPTED)
    assert push.outcomes == {"d1": ACCEPTED, "d2": ACCEPTED}


async def test_a_dead_address_is_the_one_that_was_sent_to(ledger: Ledger) -> None:
    """A device has another address at the second try, which is dead: that one is marked, not the one before it."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="old")
    await push.settle(d1=THROTTLED)
    await push.claim(d1="new")
    await push.settle(d1="token-dead")
    assert [token for _, _, token, _ in push.claims.all_dead()] == ["new"]


async def test_a_late_answer_opens_nothing_again(ledger: Ledger) -> None:
    """An answer that comes when a later try has finished the visit is written down, and nothing waits for a try."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1")
    later = await push.claim(d1="t1")
    assert (later.send, push.outcomes) == ([], {"d1": UNKNOWN})
    assert await push.settle(d1=THROTTLED) == later.stored
    assert push.outcomes == {"d1": WITHDRAWN}


@pytest.mark.parametrize("another_push", [True, False])
async def test_a_revision_between_two_tries_leaves_nothing_open(ledger: Ledger, another_push: bool) -> None:
    """Moved on between two tries: another push in its place sends what was not sent, and nothing else does."""
    push = await Pushing.entered(ledger)
    await push.claim(d1="t1", d2="t2")
    await push.settle(d1=ACCEPTED, d2=THROTTLED)
    assert await ledger.move(push.visit, 2, "other", None, keeps=False, abandons=not another_push) is None
    push.visit = push.visit.model_copy(update={"version": 2, "element": "other"})
    if not another_push:
        assert push.outcomes == {"d1": ACCEPTED, "d2": WITHDRAWN}
        return
    assert (await push.claim(d1="t1", d2="t2")).send == ["d2"]
    await push.settle(d2=ACCEPTED)
    query = select(pushes.c.device_id, pushes.c.element, pushes.c.version).order_by(pushes.c.device_id)
    rows = ledger.database.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in rows] == [("d1", "promo", 1), ("d2", "other", 2)]
