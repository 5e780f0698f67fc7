"""What tests of Web Push share: a key and a certificate, peers that serve by them, and clients of those."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from activities.push.provider import Notification, Target
from activities.push.webpush import WebPush, WebPushConfig
from tests.certificates import Authority, Certificate, make_authority, private_pem, server_certificate, signing_key
from tests.webpush_peer import WebPushPeer

SUBJECT = "mailto:push@example.com"


@dataclass(frozen=True)
class Site:
    """What all peers of a file of tests share."""

    authority: Authority
    certificate: Certificate
    key: EllipticCurvePrivateKey

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[WebPushPeer]:
        async with WebPushPeer().serving(self.certificate.context()) as peer:
            yield peer

    @asynccontextmanager
    async def client(self, *peers: WebPushPeer, clock: Any = time.time, **other: Any) -> AsyncIterator[WebPush]:
        config = WebPushConfig(
            **{
                "key": private_pem(self.key),
                "subject": SUBJECT,
                "hosts": tuple(f"{host}:{peer.port}" for peer in peers for host in ("127.0.0.1", "localhost")),
                "ca_file": self.authority.ca_file,
                **other,
            }
        )
        client = WebPush(config, clock=clock)
        try:
            yield client
        finally:
            await client.close()


def make_site(folder: Path) -> Site:
    authority = make_authority(folder)
    return Site(authority, server_certificate(authority), signing_key())


def notification(**other: Any) -> Notification:
    push_id = other.setdefault("push_id", "5b0c4b4e-0000-4000-8000-000000000001")
    return Notification(
        **{"title": "Bonjour", "body": "Vos points expirent", "data": {"push_id": push_id, "journey": "j"}, **other}
    )


def target(subscription: str) -> Target:
    return Target(device_id="d1", user_id="u1", platform="web", token=subscription)
