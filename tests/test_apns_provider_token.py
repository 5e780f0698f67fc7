"""The provider token of APNs: one serves the process, and one that is refused is replaced once for all."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

from activities.push.apns import Apns, ApnsConfig, ProviderToken
from activities.push.provider import Verdict
from tests.apns_peer import Behaviour
from tests.certificates import private_pem, signing_key
from tests.test_apns import CONFIG, KEY_ID, TEAM_ID, TOPIC, Site, make_site, notification, send_many, target, verdicts
from workflows.errors import PushError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


async def test_one_provider_token_serves_the_process_for_fifty_minutes(site: Site) -> None:
    """All clients of one key sign with the same token until it is 50 minutes old; then with one new one."""
    now = [time.time()]
    token = ProviderToken(private_pem(site.key), KEY_ID, TEAM_ID, clock=lambda: now[0])
    async with site.serving() as peer:
        peer.clock = lambda: now[0]
        async with site.client(peer) as one, site.client(peer) as other:
            await send_many(one, 5)
            await send_many(other, 5)
            assert len(peer.provider_tokens) == 1
        async with site.client(peer, token=token) as apns:
            counts = []
            for minutes in (0, 49, 2, 48, 3):
                now[0] += minutes * 60
                assert verdicts(await send_many(apns, 5)) == {"accepted": 5}
                counts.append(len(peer.provider_tokens))
    assert counts == [2, 2, 3, 3, 4]


async def test_an_expired_provider_token_is_replaced_once_for_all(site: Site) -> None:
    """Fifty messages refused for an expired token are delivered with one new token, each once."""
    ours, theirs = [time.time() - 3_590], [time.time()]  # the server's clock is an hour ahead of ours, almost
    token = ProviderToken(private_pem(site.key), KEY_ID, TEAM_ID, clock=lambda: ours[0])
    async with site.both(token=token) as (peer, apns):
        peer.clock = lambda: theirs[0]
        await apns.send(notification(), target())
        ours[0], theirs[0] = ours[0] + 60, theirs[0] + 60
        peer.default = Behaviour(delay=0.01)
        answers = await send_many(apns, 50)
    assert verdicts(answers) == {"accepted": 50}
    assert (len(peer.provider_tokens), peer.duplicates, len(peer.deliveries)) == (2, 0, 51)


async def test_a_new_provider_token_that_is_refused_too_is_a_fault_of_ours(site: Site) -> None:
    """When the server calls a new token expired as well, that is told, and no flood of new tokens follows."""
    async with site.both(token=ProviderToken(private_pem(site.key), KEY_ID, TEAM_ID)) as (peer, apns):
        peer.clock = lambda: time.time() + 7_200
        answers = await send_many(apns, 20)
        assert verdicts(answers) == {"config-bad": 20}
        assert {answer.detail for answer in answers} == {"403 ExpiredProviderToken"}
        assert len(peer.provider_tokens) == 2
        assert not peer.deliveries


async def test_a_wrong_key_is_loud_and_the_right_one_heals(site: Site) -> None:
    """A key of somebody else's is a fault of the settings; sending with the right one works at once."""
    async with site.serving() as peer:
        for wrong in ({"key": private_pem(signing_key())}, {"key_id": "OTHER"}, {"team_id": "OTHER"}):
            async with site.client(peer, **wrong) as apns:
                answer = await apns.send(notification(), target())
                assert (answer.verdict, answer.detail) == (CONFIG, "403 InvalidProviderToken")
        async with site.client(peer, topic="com.example.other") as apns:
            assert (await apns.send(notification(), target())).detail == "400 TopicDisallowed"
        assert not peer.deliveries
        async with site.client(peer) as apns:
            assert (await apns.send(notification(), target())).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("key", [b"no key", b"", private_pem(generate_private_key(SECP384R1()))])
def test_a_key_that_apple_never_gave_out_is_refused_at_once(key: bytes) -> None:
    """A key that cannot be read, or of another curve, is refused with its id before anything is sent."""
    with pytest.raises(PushError, match=KEY_ID):
        Apns(ApnsConfig(key, KEY_ID, TEAM_ID, TOPIC))
