"""An APNs server that goes away, cuts off or is silent: nothing is sent twice, and what can be known is known."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from activities.push.provider import Verdict
from tests.apns_peer import Behaviour
from tests.test_apns import Site, make_site, notification, send_many, target, verdicts


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


@pytest.mark.parametrize("pieces", [0, 7])
async def test_a_graceful_goaway_costs_nothing(site: Site, pieces: int) -> None:
    """With GOAWAY after each 300 of 1,000 messages all are accepted, none twice, none unknown, however bytes arrive."""
    async with site.both(timeout_seconds=20) as (peer, apns):
        peer.goaway_every, peer.pieces = 300, pieces
        peer.default = Behaviour(delay=0.003)
        answers = await send_many(apns, 1_000)
    assert verdicts(answers) == {"accepted": 1_000}
    assert (len(peer.deliveries), peer.duplicates) == (1_000, 0)
    assert (peer.goaways, peer.connections) == (3, 4)
    assert peer.most_in_flight > 50


async def test_requests_above_a_goaway_are_proven_unprocessed(site: Site) -> None:
    """A client that never tries again hears `not sent` for exactly the messages that the server did not process."""
    async with site.both() as (peer, apns):
        peer.goaway_every = 30
        peer.default = Behaviour(delay=0.003)
        answers = await send_many(apns, 500, tries=1)
        counted = verdicts(answers)
        assert counted["accepted"] == len(peer.deliveries)
        assert counted["not-sent"] == 500 - len(peer.deliveries) > 0
        assert {answer.detail for answer in answers} == {"", "GOAWAY NO_ERROR"}


async def test_an_abrupt_goaway_duplicates_nothing(site: Site) -> None:
    """When the server also closes, what it accepted and did not answer is unknown, the rest arrives, nothing twice."""
    async with site.both() as (peer, apns):
        peer.goaway_every, peer.goaway = 300, "abrupt"
        peer.default = Behaviour(delay=0.003)
        answers = await send_many(apns, 1_000, tries=10)
    counted = verdicts(answers)
    assert (len(peer.deliveries), peer.duplicates) == (1_000, 0)
    assert counted["accepted"] + counted["unknown"] == 1_000
    assert 0 < counted["unknown"] <= 3 * 100


@pytest.mark.parametrize(
    ("act", "verdict", "accepted"),
    [
        ("accept and cut", Verdict.UNKNOWN, 1),
        ("cut", Verdict.UNKNOWN, 0),
        ("reset", Verdict.UNKNOWN, 0),
        ("refuse", Verdict.NOT_SENT, 0),
    ],
)
async def test_a_request_that_fails_is_told_and_not_repeated(
    site: Site, act: Any, verdict: Verdict, accepted: int
) -> None:
    """Cut, reset or refused: one request, one answer that says what is known, and the next message goes through."""
    async with site.both() as (peer, apns):
        peer.next.append(Behaviour(act=act))
        answer = await apns.send(notification(), target())
        assert (answer.verdict, len(peer.received), sum(peer.deliveries.values())) == (verdict, 1, accepted)
        assert answer.detail
        assert (await apns.send(notification(), target())).verdict is Verdict.ACCEPTED


async def test_a_message_that_is_swallowed_is_unknown_at_the_deadline(site: Site) -> None:
    """Accepted and never answered: unknown when the time is over, after one request, and others are not held up."""
    async with site.both(timeout_seconds=1) as (peer, apns):
        await apns.send(notification(), target())
        peer.next.append(Behaviour(act="accept and swallow"))
        start = time.monotonic()
        answer, *others = await asyncio.gather(*(apns.send(notification(), target()) for _ in range(5)))
        assert 0.95 < time.monotonic() - start < 5
        assert (answer.verdict, answer.detail) == (Verdict.UNKNOWN, "no answer in time")
        assert verdicts(others) == {"accepted": 4}
        assert (len(peer.received), peer.duplicates, peer.connections) == (6, 0, 1)


async def test_an_answer_that_breaks_off_is_still_an_answer(site: Site) -> None:
    """A status of 200 is acceptance though its end never comes; an error without its reason is no acceptance."""
    async with site.both() as (peer, apns):
        found = []
        for status in (200, 400):
            peer.next.append(Behaviour(status, act="status and cut"))
            found.append((await apns.send(notification(), target())).verdict)
    assert found == [Verdict.ACCEPTED, Verdict.NOT_SENT]


async def test_a_body_that_was_not_written_whole_was_not_sent(site: Site) -> None:
    """When the server never opens its window the message has no end: it is proven that nobody could process it."""
    async with site.both(timeout_seconds=1.5) as (peer, apns):
        peer.stream_window, peer.slow_windows = 100, 60
        answer = await apns.send(notification(body="x" * 1_000), target())
        assert answer.verdict is Verdict.NOT_SENT
        assert (peer.connections, peer.most_in_flight, len(peer.received)) == (1, 1, 0)


async def test_what_finds_no_room_in_time_is_not_written(site: Site) -> None:
    """Messages that wait for a stream behind swallowed ones are never written, and say so by half of their time."""
    async with site.both(timeout_seconds=1.5) as (peer, apns):
        peer.max_streams = 3
        await apns.send(notification(), target())
        peer.default = Behaviour(act="swallow")
        answers = await send_many(apns, 10, tries=1)
        assert verdicts(answers) == {"unknown": 3, "not-sent": 7}
        assert len(peer.received) == 4


async def test_nobody_there_is_not_sent(site: Site) -> None:
    """No server, an untrusted one, one that speaks no HTTP/2, one that never speaks: proven not sent, and why."""
    async with site.both(timeout_seconds=1) as (peer, apns):
        peer.silent = True
        silent = await apns.send(notification(), target())
    async with site.client(peer) as apns:
        gone = verdicts(await send_many(apns, 20, tries=1))
    async with site.serving() as peer, site.client(peer, ca_file=None) as apns:
        untrusted = await apns.send(notification(), target())
    async with site.peer().serving(site.certificate.context("http/1.1")) as peer, site.client(peer) as apns:
        other = await apns.send(notification(), target())
    assert gone == {"not-sent": 20}
    assert verdicts([silent, untrusted, other]) == {"not-sent": 3}
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.detail
    assert "does not speak HTTP/2" in other.detail
    assert "within 0.4 s" in silent.detail


async def test_a_server_that_comes_back_is_used_again(site: Site) -> None:
    """After an outage the next messages go through without anybody's help."""
    peer = site.peer()
    context = site.certificate.context("h2")
    async with peer.serving(context):
        pass
    async with site.client(peer) as apns:
        assert verdicts(await send_many(apns, 5, tries=2)) == {"not-sent": 5}
        async with peer.serving(context):
            assert verdicts(await send_many(apns, 5)) == {"accepted": 5}
        assert verdicts(await send_many(apns, 5, tries=1)) == {"not-sent": 5}
        async with peer.serving(context):
            assert verdicts(await send_many(apns, 5)) == {"accepted": 5}
    assert peer.duplicates == 0
