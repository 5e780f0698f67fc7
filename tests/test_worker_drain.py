"""Draining: what runs is finished within the bound, the bound holds, and a second order ends it at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from activities.records.outcomes import ACCEPTED
from activities.records.rows import pushes
from tests.certificates import make_authority, server_certificate
from tests.house import House, events_of
from tests.http_peer import Act, Behaviour
from tests.tcp_proxy import TcpProxy
from tests.test_worker_process import Served, worker
from tests.webhook_peer import WebhookPeer
from tests.worker_that_dies import production_workers, until
from workers.draining import END_SECONDS, IDLE_SECONDS
from workers.launching import launch
from workflows.contracts import JOURNEYS_QUEUE, USERS_QUEUE

SECRET = "a secret of some length"  # noqa: S105  of the tests
JOURNEY = """\
journey: one
entries: {start: {kind: audience-entry, audience: {attribute: plan, is: solo}, next: promo}}
elements:
  promo: {kind: push, message: {title: "Hello", body: "You"}, next: done}
  done: {kind: exit}
"""


@asynccontextmanager
async def in_the_middle(
    house: House, folder: Path, act: Act, delay: float, drain_seconds: float, role: str = "push"
) -> AsyncIterator[tuple[Served, WebhookPeer]]:
    """Have a worker in the middle of a push: the provider has the request and has not answered."""
    authority = make_authority(folder / "authority")
    house.load("users", "user_id,plan,age\nlena,solo,40\n")
    house.load("devices", "device_id,user_id,platform,token,opt_in,provider\nx1,lena,ios,t,true,webhook\n")
    house.save(JOURNEY)
    peer = WebhookPeer(SECRET)
    peer.next.append(Behaviour(act=act, delay=delay))
    async with peer.serving(server_certificate(authority).context()):
        settings = {
            "JOURNEYS_PUSH_KEEP_OFF": "false",  # tests run around the quarter hours too
            "JOURNEYS_WEBHOOK_URL": f"{peer.url}/push",
            "JOURNEYS_WEBHOOK_SECRET": SECRET,
            "JOURNEYS_PUSH_CA_FILE": str(authority.ca_file),
            "JOURNEYS_DRAIN_SECONDS": str(drain_seconds),
        }
        others = (JOURNEYS_QUEUE, USERS_QUEUE) if role == "push" else ()
        async with production_workers(house, others) as client, worker(house, "--role", role, **settings) as served:
            await house.engine.start("one", client=client)
            await until(lambda: bool(peer.received))
            yield served, peer


async def test_an_activity_that_runs_is_finished(house: House, tmp_path: Path) -> None:
    """Told to stop while a provider takes its time, a worker waits for the answer, writes it down, ends with 0."""
    async with in_the_middle(house, tmp_path, "answer", 1.5, 30) as (served, peer):
        status, seconds = await served.told_to_stop()
        assert (status, 1 < seconds < 10) == (0, True), (served.said, seconds)
        assert sum(peer.deliveries.values()) == 1
        await until(lambda: house.stores.ledger.inside("one") == 0)
    assert served.said.rstrip().endswith("stopped")


async def test_nothing_new_is_taken(house: House, tmp_path: Path) -> None:
    """A worker of all queues that finishes an activity of one takes no task of the others meanwhile."""
    async with in_the_middle(house, tmp_path, "answer", 4, 30, "all") as (served, peer):
        served.tell_to_stop()
        await until(lambda: "draining" in served.said)
        await asyncio.sleep(1)
        house.save(JOURNEY.replace("journey: one", "journey: late"))
        found = house.engine.prepare("late")
        client = await house.client()
        late = await launch(client, found, house.engine.document(found))
        assert served.status is None
        assert (await served.ended())[0] == 0, served.said
        assert sum(peer.deliveries.values()) == 1
        assert "workflow_task_started" not in await events_of(client, late.id)


async def test_polls_that_the_server_holds_are_left(house: House) -> None:
    """An idle worker to which the server does not give back its polls ends with 0 soon, long before its bound."""
    async with (
        TcpProxy(house.address) as proxy,
        worker(replace(house, address=proxy.address), JOURNEYS_DRAIN_SECONDS="30") as served,
    ):
        proxy.speaking.clear()
        status, seconds = await served.told_to_stop()
    assert (status, IDLE_SECONDS <= seconds < IDLE_SECONDS + 5) == (0, True), (served.said, seconds)
    assert served.said.rstrip().endswith("the server has not given back all polls")


async def test_what_runs_is_finished_when_the_server_is_silent(house: House, tmp_path: Path) -> None:
    """An activity that takes longer than nothing may run is finished, though the server gives no poll back."""
    async with TcpProxy(house.address) as proxy:
        through = replace(house, address=proxy.address)
        async with in_the_middle(through, tmp_path, "answer", IDLE_SECONDS + 2, 30, "all") as (served, peer):
            proxy.speaking.clear()
            status, seconds = await served.told_to_stop()
            assert (status, seconds > IDLE_SECONDS + 1) == (0, True), (served.said, seconds)
            assert sum(peer.deliveries.values()) == 1
    outcome = house.stores.ledger.database.read(lambda connection: connection.execute(select(pushes.c.outcome)).all())
    assert outcome == [(ACCEPTED,)], (served.said, seconds)


async def test_the_bound_ends_what_does_not_end(house: House, tmp_path: Path) -> None:
    """A provider that never answers holds the worker no longer than the bound; the push is not sent twice."""
    async with in_the_middle(house, tmp_path, "accept and swallow", 0, 1) as (served, peer):
        status, seconds = await served.told_to_stop()
        assert status is not None
        assert 1 <= seconds < 1 + END_SECONDS + 2, served.said
        assert sum(peer.deliveries.values()) == 1


async def test_a_second_order_ends_it_at_once(house: House, tmp_path: Path) -> None:
    """A second SIGTERM ends a draining worker at once, with 1 and the reason."""
    async with in_the_middle(house, tmp_path, "swallow", 0, 60) as (served, _):
        served.tell_to_stop()
        await until(lambda: "draining" in served.said)
        await asyncio.sleep(0.3)
        assert served.status is None
        began = time.monotonic()
        status, _ = await served.told_to_stop()
    assert (status, time.monotonic() - began < 3) == (1, True), served.said
    assert served.said.rstrip().endswith("ending by force: told to stop a second time")
