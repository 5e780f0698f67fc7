"""HTTP/2 connections: streams and windows as the server allows, replaced when they die, and closed without a trace."""

from __future__ import annotations

import asyncio
import ssl
import time

import pytest

from activities.push.http2 import Http2Client, NotSent, OutcomeUnknown
from activities.push.provider import Verdict
from tests.apns_peer import Behaviour
from tests.test_apns import DEVICE, Site, make_site, notification, send_many, target, verdicts

PAYLOAD = b'{"aps":{"alert":"x"}}'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


async def test_three_thousand_errors_do_not_wedge_a_connection(site: Site) -> None:
    """3,000 error answers with bodies, more bytes than the first window holds, all arrive on one connection."""
    async with site.both(timeout_seconds=60) as (peer, apns):
        peer.default = Behaviour(400, "BadExpirationDate")
        answers = await send_many(apns, 3_000)
    assert verdicts(answers) == {"message-bad": 3_000}
    assert (peer.connections, len(peer.received)) == (1, 3_000)
    assert len(Behaviour(400, "BadExpirationDate").content()) * 3_000 > 65_535


async def test_one_stream_until_the_server_knows_us(site: Site) -> None:
    """A server that allows one stream until the first authenticated answer is never offered two; all are accepted."""
    async with site.both() as (peer, apns):
        peer.one_stream_first = True
        peer.default = Behaviour(delay=0.005)
        answers = await send_many(apns, 400, tries=1)
    assert verdicts(answers) == {"accepted": 400}
    assert (peer.connections, peer.most_before_proof) == (1, 1)
    assert peer.most_in_flight > 10


async def test_the_first_stream_is_alone_whatever_the_server_allows(site: Site) -> None:
    """One request goes out on a new connection until it is answered, also where the settings allow a hundred."""
    async with site.both() as (peer, apns):
        peer.next.append(Behaviour(act="swallow"))
        sending = asyncio.create_task(send_many(apns, 20))
        while not peer.received:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        assert (peer.most_in_flight, len(peer.received), peer.connections) == (1, 1, 1)
        sending.cancel()
        await asyncio.wait([sending])


async def test_small_windows_slow_and_break_nothing(site: Site) -> None:
    """A server that takes 500 bytes of a body at a time, and acknowledges late, gets all of 40 large messages."""
    async with site.both(timeout_seconds=20) as (peer, apns):
        peer.stream_window, peer.slow_windows = 500, 0.002
        messages = [notification(body=str(number % 10) * 3_500) for number in range(40)]
        answers = await asyncio.gather(*(apns.send(message, target()) for message in messages))
        assert verdicts(list(answers)) == {"accepted": 40}
        bodies = sorted(one.payload["aps"]["alert"]["body"] for one in peer.received)
        assert bodies == sorted(message.body for message in messages)


async def test_a_connection_that_died_in_silence_is_found_by_ping(site: Site) -> None:
    """Where no PING is answered the connection is replaced long before the deadline; where they are, it is kept."""
    async with site.both(timeout_seconds=20, ping_seconds=0.3) as (peer, apns):
        await apns.send(notification(), target())
        async with asyncio.timeout(15):
            while peer.pings < 2:
                await asyncio.sleep(0.05)
        assert peer.connections == 1
        peer.answers_pings = False
        peer.next.append(Behaviour(act="swallow"))
        start = time.monotonic()
        answer = await apns.send(notification(), target())
        assert answer.verdict is Verdict.UNKNOWN
        assert "PING" in answer.detail
        assert time.monotonic() - start < 5
        assert (await apns.send(notification(), target())).verdict is Verdict.ACCEPTED
        assert peer.connections == 2


async def test_nothing_more_is_entrusted_to_a_connection_that_says_nothing(site: Site) -> None:
    """After one message was met by complete silence, the next one goes over a new connection."""
    async with site.both(timeout_seconds=1.5) as (peer, apns):
        await apns.send(notification(), target())
        peer.next.append(Behaviour(act="swallow"))
        assert (await apns.send(notification(), target())).verdict is Verdict.UNKNOWN
        assert (await apns.send(notification(), target())).verdict is Verdict.ACCEPTED
        assert peer.connections == 2


async def test_more_connections_are_opened_for_volume_up_to_the_most(site: Site) -> None:
    """A full connection makes room for another, never more than were allowed; one is enough for few messages."""
    async with site.both(connections=3) as (peer, apns):
        peer.max_streams = 5
        peer.default = Behaviour(delay=0.05)
        assert verdicts(await send_many(apns, 3)) == {"accepted": 3}
        few = peer.connections
        assert verdicts(await send_many(apns, 100)) == {"accepted": 100}
    assert (few, peer.connections, peer.most_in_flight) == (1, 3, 5)


async def test_a_caller_who_goes_away_leaves_no_trace(site: Site) -> None:
    """A cancelled message frees its place at once, whether it was written or still waits."""
    async with site.both() as (peer, apns):
        peer.max_streams = 1
        await apns.send(notification(), target())
        peer.next.append(Behaviour(act="swallow"))
        tasks = [asyncio.create_task(apns.send(notification(), target())) for _ in range(3)]
        while len(peer.received) < 2:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        assert {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}
        assert (await apns.send(notification(), target())).verdict is Verdict.ACCEPTED
        assert (len(peer.received), peer.connections) == (3, 1)


async def test_connections_are_replaced_on_suspicion_without_losing_anything(site: Site) -> None:
    """Retiring lets answers in flight come and sends the next request over a new connection; young ones are kept."""
    head = site.head()
    async with site.serving() as peer, site.bare(peer) as client:
        peer.default = Behaviour(delay=0.1)
        first = asyncio.create_task(client.post(f"/3/device/{DEVICE}", head, PAYLOAD))
        await asyncio.sleep(0.05)
        client.retire()
        client.retire(older_than=0)
        second = await client.post(f"/3/device/{DEVICE}", head, PAYLOAD)
        assert ((await first).status, second.status, peer.connections) == (200, 200, 2)
        client.retire()
        await client.post(f"/3/device/{DEVICE}", head, PAYLOAD)
        assert peer.connections == 2


async def test_closing_ends_what_is_in_flight(site: Site) -> None:
    """Closing answers everybody: unknown for what was written, not sent for what was not or comes later."""
    async with site.serving() as peer:
        client = Http2Client(peer.url, site.authority.client_context())
        peer.default = Behaviour(act="swallow")
        posts = [asyncio.create_task(client.post(f"/3/device/{DEVICE}", site.head(), PAYLOAD)) for _ in range(2)]
        while not peer.received:
            await asyncio.sleep(0.005)
        start = time.monotonic()
        await client.close()
        ends = await asyncio.gather(*posts, client.post("/x", [], b"{}"), return_exceptions=True)
        assert time.monotonic() - start < 1
    assert [type(end) for end in ends] == [OutcomeUnknown, NotSent, NotSent]


@pytest.mark.parametrize("address", ["http://localhost", "https://", "https://host/path", "host:443"])
def test_an_address_that_is_no_server_is_refused(address: str) -> None:
    """Only https://host and https://host:port are base addresses."""
    with pytest.raises(ValueError, match="no base address"):
        Http2Client(address, ssl.create_default_context())
