"""Previews: what each device of one user would get from one push, and a test of it without the journey."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from activities.push.composing import compose
from activities.push.devices import OUTBOX
from activities.push.messages import Rendered
from activities.push.provider import PayloadTooLarge, Provider
from activities.push.sending import notification_of, target_of
from activities.records.catalogue import SavedJourney
from activities.stores import Stores
from workflows.contracts import Visit
from workflows.documents import Push
from workflows.errors import NotFoundError


class PreviewedDevice(BaseModel):
    """What one device would get."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    device_id: str
    provider: str
    message: Rendered
    """The texts in the device's language, rendered."""
    payload: dict[str, Any] | None = None
    """What the provider would be sent; null for the outbox and for a provider that is not set up."""
    problem: str | None = None
    """Why the provider would not take it, where that is known before sending."""
    answer: str | None = None
    """What the provider answered, when it was sent as a test."""


class PushPreview(BaseModel):
    """What one user would get from one push."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    journey: str
    element: str
    user_id: str
    outcome: str
    """*accepted* when there is something to send; else why not."""
    because: str
    devices: list[PreviewedDevice] = []


async def preview_push(
    stores: Stores,
    providers: Mapping[str, Provider],
    saved: SavedJourney,
    element: str,
    user_id: str,
    now: datetime,
    *,
    send: bool = False,
) -> PushPreview:
    """Work out what each device of a user would get; and send it as a test when asked.

    A test goes straight to the providers: it is no push of the journey, so neither caps nor the ledger know of it.

    Args:
        stores: Tables and ledger.
        providers: The providers that are set up, by name.
        saved: The journey's version.
        element: The push's id.
        user_id: The user.
        now: The instant, UTC.
        send: Whether to send it.

    Returns:
        The messages, and the answers when they were sent.

    Raises:
        NotFoundError: The journey has no such push.
        StoreUnavailable: Tables or ledger cannot be reached.
    """
    found = saved.document.elements.get(element)
    if not isinstance(found, Push):
        exist = ", ".join(name for name, one in saved.document.elements.items() if isinstance(one, Push)) or "none"
        raise NotFoundError(f"{saved.document.journey!r} has no push {element!r}; its pushes: {exist}")
    zone = saved.document.timezone or stores.segments.zone
    profile = await stores.profiles.look_up(user_id, found.devices, zone, now)
    composed = compose(found, saved.document, profile)
    visit = Visit(
        journey=saved.document.journey,
        version=0,
        digest=saved.digest,
        passage=f"test-{uuid4()}",
        step=0,
        element=element,
        user_id=user_id,
        now=now,
    )
    devices = [
        await _device(providers, visit, found, device, message, send=send) for device, message in composed.messages
    ]
    return PushPreview(
        journey=saved.document.journey,
        element=element,
        user_id=user_id,
        outcome=composed.outcome,
        because=composed.because,
        devices=devices,
    )


async def _device(
    providers: Mapping[str, Provider],
    visit: Visit,
    element: Push,
    device: Mapping[str, Any],
    message: Rendered,
    *,
    send: bool,
) -> PreviewedDevice:
    name = str(device["provider"])
    payload: dict[str, Any] | None = None
    problem: str | None = None
    answer: str | None = None
    provider = providers.get(name)
    if provider is not None:
        notification, target = notification_of(visit, element, device, message), target_of(visit.user_id, device)
        try:
            payload = dict(provider.payload(notification, target))
            if send:
                found = await provider.send(notification, target)
                answer = f"{found.verdict}: {found.detail}" if found.detail else str(found.verdict)
        except PayloadTooLarge as error:
            problem = str(error)
    elif name == OUTBOX:
        answer = "accepted: the outbox takes everything, and keeps no tests" if send else None
    else:
        problem = f"the provider {name!r} is not set up here: see `journeys settings`"
    return PreviewedDevice(
        device_id=device["device_id"], provider=name, message=message, payload=payload, problem=problem, answer=answer
    )
