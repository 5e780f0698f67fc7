"""Setting up the push providers: the one place where settings become clients of FCM, APNs and the like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from activities.elements.webhook import Outside
from activities.push.apns import Apns, ApnsConfig
from activities.push.claims import Cap
from activities.push.delivery import DeliveryRules
from activities.push.fcm import Fcm, FcmConfig
from activities.push.provider import Provider
from activities.push.pushwoosh import Pushwoosh, PushwooshConfig
from activities.push.rates import KeepOff
from activities.push.webhook import Webhook, WebhookConfig
from activities.push.webpush import WebPush, WebPushConfig
from workers.settings import Settings
from workflows.conditions import duration
from workflows.errors import RefusedError


def delivery_rules(settings: Settings) -> DeliveryRules:
    """Read how pushes are delivered from the settings."""
    cap: Cap | None = None
    if settings.frequency_cap is not None:
        number, _, period = settings.frequency_cap.partition("/")
        cap = Cap(int(number), duration(period))
    keep_off = KeepOff() if settings.push_keep_off else None
    return DeliveryRules(
        cap=cap, patience=settings.push_patience, control_percent=settings.control_group_percent, keep_off=keep_off
    )


@asynccontextmanager
async def open_outside(settings: Settings) -> AsyncIterator[Outside]:
    """Open what posts to other systems, and close it at the end.

    Args:
        settings: The secret, and the hosts inside the network that may be reached.
    """
    secret = settings.webhook_secret
    found = Outside(
        secret.get_secret_value() if secret is not None else None, settings.webhook_hosts, settings.push_ca_file
    )
    try:
        yield found
    finally:
        await found.close()


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
        for name, make in MAKERS.items():
            if name in settings.providers:
                found[name] = make(settings)
        yield found
    finally:
        for provider in found.values():
            await provider.close()


def _apns(settings: Settings) -> Provider:
    return Apns(
        ApnsConfig(
            key=_read(settings, "apns_key"),
            key_id=_needed(settings, "apns_key_id"),
            team_id=_needed(settings, "apns_team_id"),
            topic=_needed(settings, "apns_topic"),
            environment=settings.apns_environment,
            base_url=settings.apns_base_url,
            ca_file=settings.push_ca_file,
        )
    )


def _fcm(settings: Settings) -> Provider:
    return Fcm(
        FcmConfig(
            credentials=_read(settings, "fcm_credentials"),
            base_url=settings.fcm_base_url,
            ca_file=settings.push_ca_file,
        )
    )


def _webpush(settings: Settings) -> Provider:
    return WebPush(
        WebPushConfig(
            key=_read(settings, "webpush_key"),
            subject=_needed(settings, "webpush_subject"),
            hosts=settings.webpush_hosts,
            ca_file=settings.push_ca_file,
        )
    )


def _webhook(settings: Settings) -> Provider:
    return Webhook(
        WebhookConfig(
            url=_needed(settings, "webhook_url"),
            secret=_needed(settings, "webhook_secret"),
            ca_file=settings.push_ca_file,
        )
    )


def _pushwoosh(settings: Settings) -> Provider:
    return Pushwoosh(
        PushwooshConfig(
            application=_needed(settings, "pushwoosh_application"),
            token=_needed(settings, "pushwoosh_token"),
            base_url=settings.pushwoosh_base_url,
            ca_file=settings.push_ca_file,
        )
    )


def _needed(settings: Settings, name: str) -> str:
    """Give a setting that a provider cannot do without."""
    value = getattr(settings, name)
    if value is None:
        raise RefusedError(
            f"JOURNEYS_{name.upper()} is missing: the provider {name.partition('_')[0]!r} needs it",
            code="missing-setting",
            hint="see: journeys settings",
        )
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _read(settings: Settings, name: str) -> str:
    """Read a file of credentials."""
    path = Path(_needed(settings, name))
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(
            f"JOURNEYS_{name.upper()}: the file {str(path)!r} cannot be read: {error}", code="unreadable-credentials"
        ) from error


MAKERS: dict[str, Callable[[Settings], Provider]] = {
    "apns": _apns,
    "fcm": _fcm,
    "webpush": _webpush,
    "webhook": _webhook,
    "pushwoosh": _pushwoosh,
}
"""How each provider is made from its settings."""
