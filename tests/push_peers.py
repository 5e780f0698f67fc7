"""All protocol peers in a process of their own, for measurements: `python -m tests.push_peers FOLDER`.

Writes certificates and keys into the folder and one JSON object to standard output: where each peer listens, and what
a client needs to be let in. Serves until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tests.apns_peer import ApnsPeer
from tests.certificates import account_key, make_authority, private_pem, public_pem, server_certificate, signing_key
from tests.fcm_peer import FcmPeer
from tests.http_peer import HttpPeer
from tests.webhook_peer import WebhookPeer
from tests.webpush_peer import WebPushPeer, point

KEY_ID, TEAM_ID, TOPIC = "KEYID12345", "TEAM123456", "com.example.shop"
PROJECT, EMAIL = "shop-1234", "push@shop-1234.iam.gserviceaccount.com"
SECRET = "a secret of some length"  # noqa: S105  of the tests
BROWSERS = 20


class Forgetful(list[object]):
    """What a peer that is measured against need not remember."""

    def append(self, value: object) -> None:
        pass


async def serve(folder: Path) -> None:
    """Serve until standard input ends."""
    authority, apple_key, google_key, vapid_key = make_authority(folder), signing_key(), account_key(), signing_key()
    certificate = server_certificate(authority)
    apns = ApnsPeer(public_pem(apple_key), KEY_ID, TEAM_ID, {TOPIC})
    fcm, webpush, webhook = FcmPeer(public_pem(google_key), EMAIL, PROJECT), WebPushPeer(), WebhookPeer(SECRET)
    apns.received = Forgetful()  # type: ignore[assignment]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(apns.serving(certificate.context("h2")))
        peers: tuple[HttpPeer, ...] = (fcm, webpush, webhook)
        for peer in peers:
            peer.received = Forgetful()  # type: ignore[assignment]
            await stack.enter_async_context(peer.serving(certificate.context()))
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": private_pem(google_key).decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": fcm.token_uri,
        }
        apns_access = {"key": private_pem(apple_key).decode(), "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC}
        said = {
            "ca_file": str(authority.ca_file),
            "apns": {"base_url": apns.url, **apns_access},
            "fcm": {"base_url": fcm.url, "credentials": json.dumps(account)},
            "webpush": {
                "host": f"127.0.0.1:{webpush.port}",
                "key": private_pem(vapid_key).decode(),
                "subscriptions": [webpush.subscribe(point(vapid_key)) for _ in range(BROWSERS)],
            },
            "webhook": {"url": f"{webhook.url}/push", "secret": SECRET},
        }
        print(json.dumps(said), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
