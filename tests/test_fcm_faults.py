"""When networks to FCM fail: what is known of a message is told, and nothing is sent again that may have arrived."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from typing import Any

import pytest

from activities.push.fcm import Fcm, FcmConfig
from activities.push.provider import Verdict
from tests.certificates import make_authority, server_certificate
from tests.fcm_peer import FcmPeer
from tests.http_peer import Behaviour
from tests.test_fcm import EMAIL, PROJECT, Site, make_site, notification, target
from workflows.errors import PushError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow", "swallow", "cut"])
async def test_no_answer_is_unknown_and_nothing_is_sent_again(site: Site, act: Any) -> None:
    """Written and never answered: unknown, by one request, at the deadline at the latest, accepted or not."""
    async with site.serving() as peer, site.client(peer, timeout_seconds=0.6) as fcm:
        await fcm.send(notification(push_id="0"), target())  # so that the connection is a used one
        peer.next.append(Behaviour(act=act))
        began = time.monotonic()
        answer = await fcm.send(notification(), target())
        assert answer.verdict is Verdict.UNKNOWN, answer
        assert time.monotonic() - began < 3
        await asyncio.sleep(0.3)
        assert len(peer.received) == 2
        assert peer.deliveries[notification().push_id] == ("accept" in act)


async def test_an_answer_cut_in_its_body_is_what_its_status_says(site: Site) -> None:
    """200 and then silence is accepted; an error of which the body is lost was not sent, and may be sent again."""
    async with site.serving() as peer, site.client(peer) as fcm:
        heard = []
        for status in (200, 404, 503):
            peer.next.append(Behaviour(status, act="status and cut"))
            heard.append((await fcm.send(notification(), target())).verdict)
    assert heard == [Verdict.ACCEPTED, Verdict.NOT_SENT, Verdict.NOT_SENT]


async def test_no_connection_is_not_sent(site: Site) -> None:
    """A closed port, a silent one, an unknown name, and a certificate of others: all proven not to be sent."""
    free, silent = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    other = make_authority(site.authority.folder / "other")
    with silent:
        async with site.serving() as peer:
            addresses = [
                {"base_url": f"https://127.0.0.1:{port}"},
                {"base_url": f"https://127.0.0.1:{silent.getsockname()[1]}"},
                {"base_url": "https://fcm.invalid"},
                {"base_url": "https://127.0.0.1:bad"},
            ]
            for address in addresses[:3]:
                async with site.client(peer, timeout_seconds=1, **address) as fcm:
                    assert (await fcm.send(notification(), target())).verdict is Verdict.NOT_SENT, address
            with pytest.raises(PushError):
                Fcm(FcmConfig(json.dumps(site.account(peer.token_uri)), **addresses[3]))
            async with site.client(peer) as fcm:
                await fcm.send(notification(), target())
                certificate = server_certificate(other, name="strange")
                async with (
                    FcmPeer(b"", EMAIL, PROJECT).serving(certificate.context()) as stranger,
                    site.client(peer, base_url=stranger.url) as trusting_no_stranger,
                ):
                    answer = await trusting_no_stranger.send(notification(), target())
                assert answer.verdict is Verdict.NOT_SENT
                assert stranger.received == []


async def test_many_at_once_arrive_once_each(site: Site) -> None:
    """500 messages over 20 connections: each accepted once."""
    async with site.serving() as peer, site.client(peer, connections=20) as fcm:
        answers = await asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(500)))
    assert Counter(answer.verdict for answer in answers) == {Verdict.ACCEPTED: 500}
    assert (len(peer.deliveries), peer.duplicates) == (500, 0)
