"""What FCM is sent: fields that it lists, for each platform, within its limits."""

from __future__ import annotations

import json
import time

import pytest

from activities.push.fcm import is_reserved
from activities.push.provider import PayloadTooLarge, Verdict
from tests.test_fcm import BAD, Site, make_site, notification, target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


async def test_what_is_sent_is_valid_for_every_platform(site: Site) -> None:
    """Everything a push can say arrives in the fields that the reference lists, with that platform's block only."""
    full = notification(
        subtitle="Sous-titre",
        image="https://example.com/p.png",
        link="https://example.com/points",
        badge=3,
        sound="chime",
        ttl_seconds=3_600,
        collapse_key="é" * 40,
        overrides={
            "android": {"notification": {"channel_id": "offers"}, "restricted_package_name": "com.example"},
            "ios": {"aps": {"sound": None, "category": "OFFER"}},
            "web": {"requireInteraction": True},
        },
    )
    every, now = {"android", "apns", "webpush"}, time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as fcm:
        for platform in ("android", "ios", "web", "", "tizen"):
            answer = await fcm.send(full, target(platform=platform))
            sent = json.loads(peer.received[-1].body)["message"]
            assert sent == fcm.payload(full, target(platform=platform))["message"]
            assert answer.verdict is Verdict.ACCEPTED, answer
            blocks = {"android": {"android"}, "ios": {"apns"}, "web": {"webpush"}}.get(platform, every)
            assert blocks == every & set(sent)
            assert sent["notification"] == {"title": "Bonjour", "body": full.body, "image": full.image}
            assert sent["data"] == {"push_id": full.push_id, "journey": "j", "link": full.link}
            if "android" in blocks:
                android = sent["android"]
                shown = {"tag": "é" * 40, "sound": "chime", "notification_count": 3, "channel_id": "offers"}
                assert android == {
                    **{"priority": "HIGH", "ttl": "3600s", "collapse_key": "é" * 40, "notification": shown},
                    "restricted_package_name": "com.example",
                }
            if "apns" in blocks:
                aps = sent["apns"]["payload"]["aps"]
                assert aps["alert"] == {"title": "Bonjour", "subtitle": "Sous-titre", "body": full.body}
                assert ("sound" in aps, aps["category"], aps["badge"], aps["mutable-content"]) == (False, "OFFER", 3, 1)
                assert len(sent["apns"]["headers"]["apns-collapse-id"]) == 64
                assert int(sent["apns"]["headers"]["apns-expiration"]) == int(now) + 3_600
            if "webpush" in blocks:
                assert sent["webpush"]["notification"] == {"tag": "é" * 40, "requireInteraction": True}
                assert sent["webpush"]["fcm_options"] == {"link": full.link}
                assert sent["webpush"]["headers"] == {"TTL": "3600", "Urgency": "high"}


async def test_installation_ids_and_tokens_go_by_their_own_fields(site: Site) -> None:
    """`fid:` before an id sends to an installation; everything else is a registration token, colons and all."""
    async with site.serving() as peer, site.client(peer) as fcm:
        for token in ("fid:cXy_1-", "cXy_1-:APA91b", "fidelity"):
            assert (await fcm.send(notification(), target(token))).verdict is Verdict.ACCEPTED
    sent = [json.loads(one.body)["message"] for one in peer.received]
    assert [(one.get("fid"), one.get("token")) for one in sent] == [
        ("cXy_1-", None),
        (None, "cXy_1-:APA91b"),
        (None, "fidelity"),
    ]


async def test_what_fcm_would_refuse_is_found_before_it_is_sent(site: Site) -> None:
    """A message of 4,096 bytes is taken by the peer; one byte more, or a reserved name of data, is never sent."""
    async with site.serving() as peer, site.client(peer) as fcm:
        room = 4_096 - len(
            json.dumps(
                {**fcm.payload(notification(body=""), target())["message"], "token": 0}, separators=(",", ":")
            ).encode()
        )
        room += len('"token":0,')
        assert (await fcm.send(notification(body="x" * room), target())).verdict is Verdict.ACCEPTED
        with pytest.raises(PayloadTooLarge, match=r"4,097 bytes, and FCM takes 4,096"):
            await fcm.send(notification(body="x" * (room + 1)), target())
        with pytest.raises(PayloadTooLarge):
            fcm.payload(notification(body="é" * room), target())
        for name in ("from", "message_type", "google.x", "gcm.y"):
            answer = await fcm.send(notification(data={name: "1"}), target())
            assert answer.verdict is BAD
            assert name in answer.detail
        assert len(peer.received) == 1
    assert [name for name in ("fro", "gcm", "google", "link") if is_reserved(name)] == []
