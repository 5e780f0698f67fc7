"""What APNs is sent: the headers and payload that Apple documents, within its limits, to the right address."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from activities.push.apns import BASE_URLS, Apns, ApnsConfig, collapse_id
from activities.push.provider import Answer, PayloadTooLarge, Verdict
from tests.certificates import private_pem
from tests.test_apns import DEVICE, KEY_ID, TEAM_ID, TOPIC, Site, make_site, notification, target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


async def test_the_request_is_what_apple_documents(site: Site) -> None:
    """Headers and payload arrive as Apple wants them, with the push's id as apns-id, also in the answer."""
    message = notification(
        push_id="7A6F1B9E-0d6f-5f44-9a3e-5e8c6b1f2a10",
        subtitle="Offre",
        image="https://example.com/a.png",
        link="myapp://offers/20",
        data={"push_id": "7a6f", "journey": "win-back"},
        badge=0,
        sound="default",
        ttl_seconds=3_600,
        priority="normal",
        collapse_key="promo",
    )
    async with site.both() as (peer, apns):
        before = int(time.time())
        answer = await apns.send(message, target())
        await apns.send(notification(ttl_seconds=0), target())
        assert apns.payload(message, target()) == peer.received[0].payload
    first, second = peer.received
    assert answer == Answer(Verdict.ACCEPTED, provider_id=message.push_id.lower())
    assert first.device == DEVICE
    assert {name: value for name, value in first.headers.items() if name.startswith("apns-")} == {
        "apns-id": message.push_id.lower(),
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
        "apns-priority": "5",
        "apns-expiration": first.headers["apns-expiration"],
        "apns-collapse-id": "promo",
    }
    assert 0 <= int(first.headers["apns-expiration"]) - before - 3_600 <= 5
    assert first.payload == {
        "push_id": "7a6f",
        "journey": "win-back",
        "link": "myapp://offers/20",
        "image": "https://example.com/a.png",
        "aps": {
            "alert": {"title": "Merci", "subtitle": "Offre", "body": "-20 % jusqu'à dimanche"},
            "badge": 0,
            "sound": "default",
            "mutable-content": 1,
        },
    }
    assert second.headers["apns-expiration"] == "0"
    assert second.headers["apns-priority"] == "10"
    assert second.payload == {"aps": {"alert": {"title": "Merci", "body": "-20 % jusqu'à dimanche"}}}


async def test_overrides_reach_into_the_payload(site: Site) -> None:
    """Overrides for iOS are merged deeply: what they name changes, null takes away, all else stays."""
    overrides = {
        "ios": {"aps": {"alert": {"title": "iOS", "body": None}, "interruption-level": "passive"}, "extra": {"a": [1]}},
        "android": {"aps": {"badge": 9}},
    }
    async with site.both() as (peer, apns):
        await apns.send(notification(data={"k": "v"}, sound="bell", overrides=overrides), target())
    assert peer.received[0].payload == {
        "k": "v",
        "extra": {"a": [1]},
        "aps": {"alert": {"title": "iOS"}, "sound": "bell", "interruption-level": "passive"},
    }


async def test_a_payload_over_the_limit_is_found_before_sending(site: Site) -> None:
    """4,096 bytes are sent and taken; one more is refused here, in bytes and not in letters, and no request is made."""
    async with site.both() as (peer, apns):
        empty = len(
            json.dumps({"aps": {"alert": {"title": "é", "body": ""}}}, separators=(",", ":"), ensure_ascii=False)
        )
        body = "é" * 1_500 + "e" * (4_096 - 3_000 - empty - 1)
        fits, over = notification(title="é", body=body), notification(title="é", body=body + "e")
        assert (await apns.send(fits, target())).verdict is Verdict.ACCEPTED
        with pytest.raises(PayloadTooLarge, match=r"4,097 bytes.*4,096"):
            await apns.send(over, target())
        with pytest.raises(PayloadTooLarge):
            apns.payload(over, target())
    assert [len(one.body) for one in peer.received] == [4_096]


@pytest.mark.parametrize("key", ["k" * 65, "clé", "a b", "x" * 3_000])
async def test_a_collapse_key_that_apple_would_refuse_is_shortened(site: Site, key: str) -> None:
    """A long or foreign collapse key becomes an id of at most 64 bytes, the same each time and unlike another's."""
    assert collapse_id("k" * 64) == "k" * 64
    assert collapse_id(key) == collapse_id(key) != collapse_id(key + "x")
    async with site.both() as (peer, apns):
        assert (await apns.send(notification(collapse_key=key), target())).verdict is Verdict.ACCEPTED
    assert len(peer.received[0].headers["apns-collapse-id"].encode()) <= 64


def test_addresses_follow_the_environment(site: Site) -> None:
    """Tokens of a development build go to Apple's sandbox, all others to production."""
    assert BASE_URLS == {
        "production": "https://api.push.apple.com",
        "sandbox": "https://api.sandbox.push.apple.com",
    }
    config = ApnsConfig(private_pem(site.key), KEY_ID, TEAM_ID, TOPIC, environment="sandbox")
    assert Apns(config)._client.authority == "api.sandbox.push.apple.com"
    assert Apns(replace(config, environment="production"))._client.authority == "api.push.apple.com"
    assert "PRIVATE KEY" not in repr(config)
