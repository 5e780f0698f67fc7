"""The push activity: choose the devices, render the message, hand it over, write down what became of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from temporalio import activity

from activities.faults import as_failures
from activities.push.devices import OUTBOX, Profile
from activities.push.messages import MissingValue, Rendered, render
from activities.records.ledger import instant
from activities.stores import Stores, outcome_of
from workflows.contracts import Outcome, Visit
from workflows.documents import JourneyDocument, Push
from workflows.errors import NotFoundError, PushError

ACCEPTED = "accepted"
NO_REACHABLE_DEVICE = "skipped: no-reachable-device"
VALUE_MISSING = "skipped: value-missing"


class PushActivities:
    """Sends pushes.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="push")
    @as_failures
    async def push(self, visit: Visit) -> Outcome:
        """Send an element's message to the user's reachable devices.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch taken; a user who cannot be reached goes on too, with the reason.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version is unknown,
                which it does not.
        """
        stores = self._stores
        saved = stores.catalogue.journey(visit.digest)
        element = saved.document.elements[visit.element]
        if not isinstance(element, Push):
            raise NotFoundError(f"{visit.element!r} is no push of {visit.journey!r}")
        profile = await stores.profiles.look_up(visit.user_id)
        outcome, because, messages = compose(element, saved.document, profile)
        branch = "next" if element.branches is None else ("accepted" if outcome == ACCEPTED else "not_accepted")
        sent = [self._row(visit, device, message) for device, message in messages]
        answer = outcome_of(saved, visit.element, branch, because)
        # The outbox is a table of the ledger, so its pushes and the outcome are one commit: sent exactly once.
        return await stores.ledger.record(visit, answer, outcome=outcome, sent=sent)

    def _row(self, visit: Visit, device: dict[str, Any], message: Rendered) -> dict[str, Any]:
        if device["provider"] != OUTBOX:
            raise PushError(
                f"device {device['device_id']!r} names the provider {device['provider']!r}, which this worker does not "
                f"have: it has {OUTBOX!r}. Import the device again with another provider, or without one"
            )
        return {
            "passage": visit.passage,
            "step": visit.step,
            "device_id": device["device_id"],
            "journey": visit.journey,
            "version": visit.version,
            "element": visit.element,
            "user_id": visit.user_id,
            "at": instant(visit.now),
            "provider": OUTBOX,
            "outcome": ACCEPTED,
            "title": message.title,
            "message": json.dumps(
                {**message.model_dump(exclude_none=True), "push_id": push_id(visit, device["device_id"])},
                ensure_ascii=False,
            ),
        }


def push_id(visit: Visit, device_id: str) -> str:
    """Name a push to one device: the same on every try."""
    return str(uuid5(NAMESPACE_URL, f"{visit.passage}/{visit.step}/{device_id}"))


def compose(
    element: Push, document: JourneyDocument, profile: Profile
) -> tuple[str, str, list[tuple[dict[str, Any], Rendered]]]:
    """Work out what a push would do for one user.

    Args:
        element: The push.
        document: The journey.
        profile: The user.

    Returns:
        The outcome, the reason for a person, and a message for each device that gets one.
    """
    if not profile.devices:
        return NO_REACHABLE_DEVICE, "no device is opted in with an address", []
    journey = {"id": document.journey, "title": document.title}
    messages: list[tuple[dict[str, Any], Rendered]] = []
    for device in profile.devices:
        language = device.get("language") or profile.user.get("language")
        values = {"user": profile.user, "device": device, "journey": journey}
        try:
            messages.append((dict(device), render(element.message, language, values)))
        except MissingValue as missing:
            return VALUE_MISSING, str(missing), []
    plural = "s" if len(messages) > 1 else ""
    return ACCEPTED, f"{len(messages)} device{plural}", messages
