"""Setting up the push providers: the one place where settings become clients of FCM, APNs and the like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from activities.push.claims import Cap
from activities.push.delivery import DeliveryRules
from activities.push.provider import Provider
from workers.settings import Settings
from workflows.conditions import duration


def delivery_rules(settings: Settings) -> DeliveryRules:
    """Read how pushes are delivered from the settings."""
    cap: Cap | None = None
    if settings.frequency_cap is not None:
        number, _, period = settings.frequency_cap.partition("/")
        cap = Cap(int(number), duration(period))
    return DeliveryRules(cap=cap, patience=settings.push_patience)


@asynccontextmanager
async def open_providers(settings: Settings) -> AsyncIterator[Mapping[str, Provider]]:
    """Open the providers that are set up, and close them at the end.

    Args:
        settings: Their credentials and addresses.

    Yields:
        Name to provider, the outbox left out: it is a table of the ledger.

    Raises:
        RefusedError: A setting that a provider needs is missing, or a file of credentials cannot be read.
    """
    found: dict[str, Provider] = {}
    try:
        yield found
    finally:
        for provider in found.values():
            await provider.close()
