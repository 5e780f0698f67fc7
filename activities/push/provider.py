"""What every push provider is to the engine: one message for one device, one answer, no retry of its own.

Providers are adapters: they know a wire protocol and nothing of journeys, tables or the ledger. Retrying belongs to
Temporal and deciding to the push activity, so an adapter sends a request once and says what it knows about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol


class Verdict(StrEnum):
    """What an answer means, whatever the provider's words for it."""

    ACCEPTED = "accepted"
    """The provider took the message."""
    TOKEN_DEAD = "token-dead"  # noqa: S105  no secret
    """The address will never work again: the device is marked."""
    MESSAGE_BAD = "message-bad"
    """The provider refuses this message for this device; the same again would be refused again."""
    CONFIG_BAD = "config-bad"
    """Credentials or settings are wrong: nothing can be sent by this provider until somebody mends them."""
    RETRY = "retry"
    """Not now: try again after a while."""
    NOT_SENT = "not-sent"
    """It is proven that the provider did not process the request: it may be sent again at once."""
    UNKNOWN = "unknown"
    """The request went out and no answer came: it may have been delivered, or not."""


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        verdict: What it means.
        detail: The provider's own word or our reason, for people: `UNREGISTERED`, `410 ExpiredToken`, `timeout`.
        retry_after: Seconds to wait before trying again, where the provider or its documentation says.
        provider_id: The provider's id of the message, where it gave one.
        dead_since: For a dead address, the instant from which the provider knows so, UTC; a device that was registered
            again after it is alive.
    """

    verdict: Verdict
    detail: str = ""
    retry_after: float | None = None
    provider_id: str | None = None
    dead_since: datetime | None = None


@dataclass(frozen=True)
class Notification:
    """One message as one device gets it: texts rendered, language chosen.

    Attributes:
        push_id: A UUID, the same on every try of the same push to the same device.
        title: The headline.
        body: The text.
        subtitle: The line under the headline.
        image: Address of a picture.
        link: Where a tap leads.
        data: Values for the application. `push_id`, `journey` and `element` are added by the adapter's caller.
        badge: The number on the application's icon.
        sound: The sound's name.
        ttl_seconds: How long the provider keeps the message for a device that is away; 0 for now or never.
        priority: `high` wakes a device; `normal` may wait.
        collapse_key: Replaces an undelivered message of the same key; never shared between different messages.
        overrides: Values for one platform's payload, by platform, merged into what the adapter makes.
    """

    push_id: str
    title: str
    body: str
    subtitle: str | None = None
    image: str | None = None
    link: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    badge: int | None = None
    sound: str | None = None
    ttl_seconds: int = 2_419_200
    priority: Literal["high", "normal"] = "high"
    collapse_key: str | None = None
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One device as a provider addresses it.

    Attributes:
        device_id: Our id of the device.
        user_id: Whose device it is.
        platform: `ios`, `android`, `web`, or another word, in lower case.
        token: The address: a token, an installation id, a subscription as JSON, or an address of a webhook's user.
    """

    device_id: str
    user_id: str
    platform: str
    token: str


class PayloadTooLarge(ValueError):
    """The message is larger than the provider takes: found before sending. Says the size and the limit in bytes."""


class Provider(Protocol):
    """One push provider. Safe to use from many tasks of one event loop at once."""

    name: str
    """The name by which devices and settings call it."""

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent, for previews and tests.

        Raises:
            PayloadTooLarge: It is larger than the provider takes.
        """

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once. Never raises for what the provider or the network did: that is the answer.

        Raises:
            PayloadTooLarge: Nothing was sent.
        """

    async def close(self) -> None:
        """Let go of connections."""
