"""The push activity: choose the devices, render the message, claim, send, write down what became of it."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity

from activities.elements.passing import Answer as ElementAnswer
from activities.elements.passing import Case, Passing, Paused, Stay
from activities.elements.split_test import place_of
from activities.faults import as_failures
from activities.push.claims import PATIENCE_OVER, Cap
from activities.push.composing import Composed, compose
from activities.push.devices import OUTBOX
from activities.push.messages import Rendered
from activities.push.provider import Answer, Provider, Verdict
from activities.push.rates import KeepOff
from activities.push.sending import Sender, later, push_id, storable
from activities.records.catalogue import SavedJourney
from activities.records.outcomes import ACCEPTED, CLAIMED, GAVE_UP, REFUSED, TOKEN_DEAD, UNKNOWN, WITHDRAWN
from activities.records.rows import instant
from activities.segments.memberships import at_hand
from activities.stores import outcome_of
from workflows.calendar import end_of_silence, local_time
from workflows.conditions import duration
from workflows.contracts import Outcome, Visit
from workflows.documents import FrequencyCap, Push
from workflows.errors import NotWarm, PushError, PushHeld, StoreUnavailable, as_application_error

CAPPED = "skipped: capped"
CONTROL_GROUP = "skipped: control-group"
PAUSED = "skipped: paused"
SILENT_HOURS = "skipped: silent-hours"
PROMPT_SECONDS = 1.0
"""How old the devices may be that are sent to: whoever waited longer for his turn is looked up again."""
SETTLE_SECONDS = 20.0
"""How long answers are kept while the ledger cannot be written: with the provider's own time within an attempt."""
SETTLE_PAUSE_SECONDS = 0.5

USER_OUTCOMES = (ACCEPTED, UNKNOWN, REFUSED, TOKEN_DEAD, GAVE_UP, WITHDRAWN)
"""What is said of a user with several devices: the first of these that one of them met."""

WORDS = {
    ACCEPTED: "accepted",
    UNKNOWN: "with no answer",
    REFUSED: "refused",
    TOKEN_DEAD: "with a dead address",
    GAVE_UP: "given up",
    WITHDRAWN: "gone meanwhile",
}


@dataclass(frozen=True)
class DeliveryRules:
    """How pushes are delivered, whatever they say.

    Attributes:
        cap: The frequency cap over all journeys; None for none.
        patience: Longest time for which a push is tried again; a message's time to live may be shorter.
        control_percent: Percent of all users, by a hash of their ids, who get no marketing push.
        keep_off: The minutes that marketing pushes to real providers keep off; None for none.
    """

    cap: Cap | None = None
    patience: timedelta = timedelta(hours=1)
    control_percent: float = 0.0
    keep_off: KeepOff | None = None


class PushActivities:
    """Sends pushes.

    Args:
        passing: How a visit to an element is answered, with the stores.
        providers: The providers that are set up, by name; the outbox needs none.
        rules: How pushes are delivered.
    """

    def __init__(
        self, passing: Passing, providers: Mapping[str, Provider] | None = None, rules: DeliveryRules | None = None
    ) -> None:
        self._passing = passing
        self._stores = passing.stores
        self._sender = Sender(self._stores, providers or {})
        self._rules = rules or DeliveryRules()

    @activity.defn(name="push")
    @as_failures
    async def push(self, visit: Visit) -> Outcome:
        """Send an element's message to the user's reachable devices.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch taken; a user who cannot be reached goes on too, with the reason.

        Raises:
            ApplicationError: A store or a provider cannot be used, or slows us down, which Temporal retries when told;
                or the version is unknown, which it does not.
        """
        return await self._passing.pass_by(visit, Push, self._push)

    async def _push(self, case: Case[Push]) -> Stay | Outcome:
        answer = await self._sent(case)
        if not isinstance(answer, ElementAnswer):
            return answer
        # Nothing is sent, or nothing more: an earlier try of the same push may have reached some device.
        outcome = outcome_of(case.saved, case.visit.element, answer.branch, answer.because)
        claims, finish = self._stores.claims, _finisher(case)
        return await claims.pass_over(case.visit, outcome, outcome=answer.outcome, finish=finish)

    async def _sent(self, case: Case[Push]) -> ElementAnswer | Stay | Outcome:
        visit, element = case.visit, case.element
        if case.skip:
            return _not_sent(element, PAUSED, "it fell due in a pause")
        if element.purpose == "marketing" and (held := await self._marketing(case)) is not None:
            return held
        composed = await self._composed(case)
        if not composed.messages:
            return _not_sent(element, composed.outcome, composed.because)
        remote = composed.providers - {OUTBOX}
        if remote and activity.info().is_local:
            # It would escape the allowances, and be sent again where its worker dies with the workflow's task.
            raise NotWarm(f"devices of {', '.join(sorted(remote))}: the push queue's workers send to them")
        if remote and activity.info().attempt > 1 and self._is_stale(element):
            return _not_sent(element, GAVE_UP, PATIENCE_OVER)
        self._require_good_minute(visit, element, remote)
        began = time.monotonic()
        waiting = await self._sender.waiting(composed)
        if time.monotonic() - began > PROMPT_SECONDS:
            # Who opted out while this push waited its turn gets nothing; for new devices no turn was waited for.
            again = await self._composed(case)
            composed = again.among(composed)
            if not again.messages:
                return _not_sent(element, again.outcome, again.because)
            if not composed.messages:
                changed = PushError("the user's devices changed while this push waited its turn")
                raise as_application_error(changed, next_retry_delay=timedelta(seconds=PROMPT_SECONDS))
        return await self._deliver(case, composed, waiting)

    async def _composed(self, case: Case[Push]) -> Composed:
        """Work out what is sent to whom, as the tables are now."""
        values = await case.values()
        visit, devices = case.visit, case.element.devices
        asked = case.stores.profiles.look_up(visit.user_id, devices, case.zone, visit.now, values.entry)
        profile = await at_hand(asked)
        return compose(case.element, case.document, profile, {"entry": values.entry, "waited": values.waited})

    async def _marketing(self, case: Case[Push]) -> ElementAnswer | Stay | None:
        """Hold back what is no answer to something the user did: control group, send window, silent hours.

        Returns:
            What becomes of the push; None when it may go out now.
        """
        visit, document = case.visit, case.document
        if place_of("control-group", visit.user_id) * 100 < self._rules.control_percent:
            return _not_sent(case.element, CONTROL_GROUP, "the user is in the control group")
        window = duration(document.send_window) if document.send_window is not None else timedelta()
        spread = window * place_of(visit.passage, visit.element)
        if spread and visit.until is None:
            return Stay(visit.now + spread, "spread over the send window")
        if document.silent_hours is None:
            return None
        silence, zone = document.silent_hours.push, await case.zone_of_user()
        # A push that was tried again for long may have come into silent hours since it was asked for.
        tried = max(datetime.now(UTC) - activity.info().scheduled_time, timedelta())
        begin, end = local_time(silence.from_), local_time(silence.to)
        over = end_of_silence(visit.now + tried, begin, end, zone)
        if over is None:
            return None
        if silence.then == "skip":
            return _not_sent(case.element, SILENT_HOURS, f"silent hours in {zone}")
        return Stay(over + spread, f"silent hours in {zone}")

    async def _deliver(
        self, case: Case[Push], composed: Composed, waiting: Mapping[str, Answer]
    ) -> ElementAnswer | Outcome:
        """Claim what may be sent, send it but by providers that have to wait, settle it; raise where some of it waits.

        Args:
            case: The visit.
            composed: What is sent to whom.
            waiting: Provider to why nothing is sent by it now.
        """
        visit, element = case.visit, case.element
        claims, messages = self._stores.claims, {str(device["device_id"]): one for device, one in composed.messages}
        devices = {str(device["device_id"]): device for device, _ in composed.messages}
        resend, finish = element.purpose == "transactional", _finisher(case)
        claim = await claims.claim(
            visit,
            [self._row(visit, element, device, messages[name]) for name, device in devices.items()],
            resend=resend,
            caps=caps_of(element, self._rules),
            finish=finish,
            now=visit.now,
        )
        if claim.stored is not None:
            return claim.stored
        if claim.paused:
            raise Paused
        if claim.capped:
            return _not_sent(element, CAPPED, "the frequency cap is reached")
        sending = [name for name in claim.send if name in devices]
        ready = [name for name in sending if devices[name]["provider"] not in waiting]
        sent = await asyncio.gather(*(self._sender.send(case, devices[name], messages[name]) for name in ready))
        answers = {name: waiting.get(devices[name]["provider"], Answer(Verdict.NOT_SENT)) for name in sending}
        answers.update(zip(ready, sent, strict=True))
        left = self._seconds_left(element)
        settle = functools.partial(claims.settle, visit, answers, resend=resend, give_up=left <= 0, finish=finish)
        stored = await _insisting(settle)
        if stored is not None:
            return stored
        raise later(visit, answers, left)

    def _require_good_minute(self, visit: Visit, element: Push, providers: set[str]) -> None:
        """Have a marketing push wait for a minute that is not everybody's, unless it would come too late by that."""
        if self._rules.keep_off is None or element.purpose == "transactional" or not providers:
            return
        wait = self._rules.keep_off.wait(datetime.now(UTC), place_of(visit.passage, "ramp"))
        if 0 < wait < self._seconds_left(element):
            raise as_application_error(
                PushHeld(f"the push keeps off the quarter hour, when everybody sends: it waits {wait:.0f} s"),
                next_retry_delay=timedelta(seconds=wait),
            )

    def _is_stale(self, element: Push) -> bool:
        """Whether a push that has waited comes too late: what it says was worth saying until its time to live ended."""
        return datetime.now(UTC) - activity.info().scheduled_time > duration(element.message.ttl)

    def _seconds_left(self, element: Push) -> float:
        """How long this push is worth trying, counted from when Temporal scheduled it."""
        worth = min(duration(element.message.ttl), self._rules.patience)
        return (activity.info().scheduled_time + worth - datetime.now(UTC)).total_seconds()

    def _row(self, visit: Visit, element: Push, device: Mapping[str, Any], message: Rendered) -> dict[str, Any]:
        """Make the ledger's row of one push. The outbox is the ledger, so there a claim is an acceptance."""
        counts = counts_for_caps(element)
        return {
            "passage": visit.passage,
            "step": visit.step,
            "device_id": device["device_id"],
            "journey": visit.journey,
            "version": visit.version,
            "element": visit.element,
            "user_id": visit.user_id,
            "at": instant(visit.now),
            "provider": device["provider"],
            "outcome": ACCEPTED if device["provider"] == OUTBOX else CLAIMED,
            "title": storable(message.title),
            "message": json.dumps(message.model_dump(exclude_none=True), ensure_ascii=False),
            "token": device.get("token"),
            "push_id": push_id(visit, device["device_id"]),
            "attempts": 1,
            "sent_at": instant(datetime.now(UTC)),
            "capped_by": int(counts),
        }


async def _insisting(settle: Callable[..., Awaitable[Outcome | None]]) -> Outcome | None:
    """Record answers through a short outage of the ledger: once forgotten, nobody can ask for them again."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            return await settle(now=datetime.now(UTC))
        except StoreUnavailable:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(SETTLE_PAUSE_SECONDS)


def _branch(element: Push, accepted: bool) -> str:
    if element.branches is None:
        return "next"
    return "accepted" if accepted else "not_accepted"


def caps_of(element: Push, rules: DeliveryRules) -> list[Cap]:
    """List the frequency caps that hold for a push: its own, and the one over all journeys."""
    if not counts_for_caps(element):
        return []
    own = element.frequency_cap
    found = [Cap(own.at_most, duration(own.per))] if isinstance(own, FrequencyCap) else []
    return [*found, rules.cap] if rules.cap is not None else found


def counts_for_caps(element: Push) -> bool:
    """Tell whether a push is held back by frequency caps, and counts for them."""
    return element.purpose == "marketing" and element.frequency_cap != "ignore"


def _not_sent(element: Push, outcome: str, because: str) -> ElementAnswer:
    return ElementAnswer(_branch(element, False), because, outcome=outcome)


def _finisher(case: Case[Push]) -> Callable[[Counter[str]], tuple[Outcome, str]]:
    return functools.partial(_finished, case.saved, case.visit.element, case.element)


def _finished(saved: SavedJourney, name: str, element: Push, outcomes: Counter[str]) -> tuple[Outcome, str]:
    """Make the visit's outcome from its devices' outcomes."""
    outcome = next((one for one in USER_OUTCOMES if outcomes[one]), GAVE_UP)
    said = ", ".join(f"{number} {WORDS[one]}" for one in USER_OUTCOMES if (number := outcomes[one]))
    plural = "s" if outcomes.total() > 1 else ""
    because = f"{outcomes.total()} device{plural}: {said}"
    return outcome_of(saved, name, _branch(element, outcome == ACCEPTED), because), outcome
