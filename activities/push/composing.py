"""Composing a push for one user: which devices, which language, which words. Pure: the plan and the run share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from activities.push.messages import MissingValue, Rendered, render
from activities.push.profiles import Profile
from workflows.documents import JourneyDocument, Push

ACCEPTED = "accepted"
NO_REACHABLE_DEVICE = "skipped: no-reachable-device"
NO_MATCHING_DEVICE = "skipped: no-matching-device"
VALUE_MISSING = "skipped: value-missing"


@dataclass(frozen=True)
class Composed:
    """What a push would do for one user.

    Attributes:
        outcome: *accepted* where there is something to send; else why not.
        because: The reason, for a person.
        messages: A device's row and its message, for each device that gets one.
    """

    outcome: str
    because: str
    messages: list[tuple[dict[str, Any], Rendered]] = field(default_factory=list)

    @property
    def providers(self) -> set[str]:
        """The providers of those devices."""
        return {str(device["provider"]) for device, _ in self.messages}

    def among(self, asked: Composed) -> Composed:
        """Leave out what goes to devices, or by providers, that an earlier composition does not send to."""
        known = {(device["device_id"], device["provider"]) for device, _ in asked.messages}
        kept = [one for one in self.messages if (one[0]["device_id"], one[0]["provider"]) in known]
        return replace(self, messages=kept)


def compose(
    element: Push, document: JourneyDocument, profile: Profile, events: Mapping[str, Mapping[str, Any]] | None = None
) -> Composed:
    """Work out what a push would do for one user.

    Args:
        element: The push.
        document: The journey.
        profile: The user, with the reachable devices for which the push's condition is true.
        events: What templates see of events: `entry` and `waited`; null for none.

    Returns:
        The messages, or the reason why there is none.
    """
    if not profile.devices:
        if profile.reachable:
            return Composed(NO_MATCHING_DEVICE, f"none of {profile.reachable} reachable devices is meant")
        return Composed(NO_REACHABLE_DEVICE, "no device is opted in with an address")
    devices = _apart(profile.devices)
    if element.send_to == "latest":
        devices = [max(devices, key=_seen)]
    journey = {"id": document.journey, "title": document.title}
    messages: list[tuple[dict[str, Any], Rendered]] = []
    for device in devices:
        language = device.get("language") or profile.user.get("language")
        values = {
            "entry": {},
            "waited": {},
            **(events or {}),
            "user": profile.user,
            "device": device,
            "journey": journey,
        }
        try:
            messages.append((dict(device), render(element.message, language, values)))
        except MissingValue as missing:
            return Composed(VALUE_MISSING, str(missing))
    plural = "s" if len(messages) > 1 else ""
    return Composed(ACCEPTED, f"{len(messages)} device{plural}", messages)


def _apart(devices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep one device of each address, the last seen: a phone that was registered twice gets a push once."""
    newest: dict[tuple[str, bool, str], str] = {}
    for device in sorted(devices, key=_seen):
        newest[_address(device)] = device["device_id"]
    return [device for device in devices if newest[_address(device)] == device["device_id"]]


def _address(device: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Tell devices apart by what their provider is given; in the outbox one may have no token."""
    return device["provider"], "token" in device, device.get("token", device["device_id"])


def _seen(device: Mapping[str, Any]) -> tuple[str, str]:
    return device.get("last_seen", ""), device["device_id"]
