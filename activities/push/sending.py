"""Sending to providers: which of them have to wait, what each is given, and what it answered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from temporalio import activity

from activities.elements.passing import Answered, Case, Paused
from activities.push.claims import OUTCOMES
from activities.push.composing import Composed
from activities.push.devices import OUTBOX
from activities.push.messages import Rendered
from activities.push.provider import Answer, Notification, PayloadTooLarge, Provider, Target, Verdict
from activities.records.outcomes import CLAIMABLE, UNKNOWN
from activities.stores import Stores
from workflows.conditions import duration
from workflows.contracts import Visit
from workflows.documents import Push
from workflows.errors import PushError, StoreUnavailable, as_application_error

RATE_PATIENCE_SECONDS = 20.0
"""How long a try waits for providers' allowances, all together, before it leaves the waiting to the server."""
RESENDS_AT_ONCE = 3
"""Tries within one attempt of what a provider has provably not processed."""
RESEND_SECONDS = 3.0
"""Time for them: a provider may be slow to say so, and an attempt has to end before the server gives it up."""
RESEND_PAUSE_SECONDS = 0.2
RETRY_FLOOR_SECONDS = 10.0
"""Shortest wait before trying again, where a provider names none (Google's page "scale-fcm": at least 10 seconds)."""
BROKEN_SECONDS = 60.0
"""How long a provider whose credentials were refused is left alone, by one worker."""

DETAIL_LIMIT = 300
"""Longest detail of an answer that is kept, in characters."""


class Sender:
    """Sends to devices by the providers of one worker, and remembers which of them refuse its credentials.

    Args:
        stores: The allowances of providers, and whether journeys are paused.
        providers: The providers that are set up, by name; the outbox needs none.
    """

    def __init__(self, stores: Stores, providers: Mapping[str, Provider]) -> None:
        self._stores = stores
        self._providers = dict(providers)
        self._broken: dict[str, tuple[float, str]] = {}

    async def waiting(self, composed: Composed) -> dict[str, Answer]:
        """Ask before anything is claimed which providers have to wait, so that waiting leaves nothing unknown.

        Args:
            composed: What is to be sent to whom.

        Returns:
            Provider to why nothing is sent by it now, and for how long; the others may send to their devices.

        Raises:
            ApplicationError: All devices have to wait.
        """
        until, found = time.monotonic() + RATE_PATIENCE_SECONDS, dict[str, Answer]()
        for name, number in sorted(Counter(str(device["provider"]) for device, _ in composed.messages).items()):
            if name == OUTBOX:
                continue
            broken, said = self._broken.get(name, (0.0, ""))
            if name not in self._providers:
                known = ", ".join(sorted({OUTBOX, *self._providers}))
                found[name] = _not_now(
                    f"a device names the provider {name!r}, which this worker does not have: it has {known}. Set it "
                    "up, see `journeys settings`, or import the device again without it",
                    BROKEN_SECONDS,
                )
            elif (left := broken - time.monotonic()) > 0:
                mend = f"{name} refuses our credentials: {said}. Mend its key; pushes wait and go on"
                found[name] = _not_now(mend, left + 1)
            elif not await self._stores.rates.take(name, until - time.monotonic(), number):
                used_up = f"the allowance of {name} is used up: this push waits its turn"
                found[name] = _not_now(used_up, RETRY_FLOOR_SECONDS)
        if found and composed.providers <= found.keys():
            first = min(found.values(), key=lambda answer: answer.retry_after or 0)
            delay = timedelta(seconds=first.retry_after or RETRY_FLOOR_SECONDS)
            raise as_application_error(PushError(first.detail), next_retry_delay=delay)
        return found

    async def send(self, case: Case[Push], device: Mapping[str, Any], message: Rendered) -> Answer:
        """Send to one device; again at once where the provider has provably not processed it and nothing forbids it."""
        provider, began = self._providers[device["provider"]], time.monotonic()
        notification = notification_of(case.visit, case.element, device, message)
        target = target_of(case.visit.user_id, device)
        answer = Answer(Verdict.NOT_SENT)
        for attempt in range(RESENDS_AT_ONCE):
            if attempt and not await self._may_still(case):
                break
            try:
                answer = await provider.send(notification, target)
            except PayloadTooLarge as error:
                answer = Answer(Verdict.MESSAGE_BAD, str(error))
            except Exception as error:  # one device's answer must not be the loss of the others'
                activity.logger.exception("%s failed in an unforeseen way", provider.name)
                answer = Answer(Verdict.UNKNOWN, f"unforeseen: {type(error).__name__}: {error}")
            if answer.verdict is not Verdict.NOT_SENT or time.monotonic() - began > RESEND_SECONDS:
                break
            await asyncio.sleep(RESEND_PAUSE_SECONDS * (attempt + 1))
        answer = replace(answer, detail=storable(answer.detail[:DETAIL_LIMIT]))
        if answer.verdict is Verdict.CONFIG_BAD:
            self._broken[provider.name] = (time.monotonic() + BROKEN_SECONDS, answer.detail)
            activity.logger.error("%s refuses our credentials: %s", provider.name, answer.detail)
        labels = {"provider": provider.name, "outcome": OUTCOMES[answer.verdict]}
        self._stores.ledger.database.meters.pushes.add(1, labels)
        return answer

    async def _may_still(self, case: Case[Push]) -> bool:
        """Ask again before something is sent again: a pause or a removal may have come since the claim."""
        try:
            await self._stores.gate.renew()
            await case.require_open()
        except (Paused, Answered, StoreUnavailable):
            return False
        return True


def later(visit: Visit, answers: Mapping[str, Answer], left: float) -> Exception:
    """Say when to try again: what the provider asked for, spread a little so that users do not come back as one."""
    waiting = [one for one in answers.values() if OUTCOMES[one.verdict] in (*CLAIMABLE, UNKNOWN)]
    delay = max([answer.retry_after or RETRY_FLOOR_SECONDS for answer in waiting], default=RETRY_FLOOR_SECONDS)
    spread = 1 + int.from_bytes(hashlib.sha256(visit.passage.encode()).digest()[:2]) / 65_536 / 5
    said = ", ".join(sorted({answer.detail for answer in waiting if answer.detail}))
    return as_application_error(
        PushError(f"the push waits: {said or 'not now'}"),
        next_retry_delay=timedelta(seconds=min(delay * spread, left + 1)),
    )


def _not_now(detail: str, seconds: float) -> Answer:
    return Answer(Verdict.NOT_SENT, detail, retry_after=seconds)


def storable(said: str) -> str:
    """Give a provider's words as every database holds them: whoever gave us an address may have chosen them."""
    return said.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def push_id(visit: Visit, device_id: str) -> str:
    """Name a push to one device: the same on every try."""
    return str(uuid5(NAMESPACE_URL, f"{visit.passage}/{visit.step}/{device_id}"))


def notification_of(visit: Visit, element: Push, device: Mapping[str, Any], message: Rendered) -> Notification:
    """Make what a provider is given from a rendered message."""
    found, identity = element.message, push_id(visit, device["device_id"])
    # A repeat of the same push replaces it on the screen; another push never does.
    collapse = found.collapse_key or hashlib.sha256(f"{visit.passage}/{visit.step}".encode()).hexdigest()[:24]
    return Notification(
        push_id=identity,
        title=message.title,
        body=message.body,
        subtitle=message.subtitle,
        image=message.image,
        link=message.link,
        data={**message.data, "push_id": identity, "journey": visit.journey, "element": visit.element},
        badge=found.badge,
        sound=found.sound,
        ttl_seconds=int(min(duration(found.ttl), timedelta(days=28)).total_seconds()),
        priority=found.priority,
        collapse_key=collapse,
        overrides={platform: json.loads(text) for platform, text in found.platforms.items()},
    )


def target_of(user_id: str, device: Mapping[str, Any]) -> Target:
    """Make a provider's address from a device's row."""
    return Target(
        device_id=device["device_id"],
        user_id=user_id,
        platform=device.get("platform", ""),
        token=device.get("token", ""),
    )
