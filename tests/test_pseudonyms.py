"""Towards Temporal a user is known by a pseudonym, where there is a key: no id can be read in the cluster."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from temporalio.client import Client, WorkflowFailureError

from activities.life import Endings
from activities.records.pseudonyms import Pseudonyms, pseudonyms
from tests.commands import Commands
from tests.house import SAMPLE_DOCUMENTS, House, listed, open_house
from workers.codec import open_codec
from workers.operating import Operator
from workers.plugin import JourneysPlugin
from workers.settings import load_settings
from workflows.contracts import (
    JOURNEY_USER_ID,
    USERS_QUEUE,
    EnterRequest,
    TakeOutRequest,
    UserGiven,
    UserJourneyInput,
    user_workflow_id,
)
from workflows.errors import DefinitionError

ROOT = Path(__file__).resolve().parents[1]
KEY = "correct horse battery staple"
PAID, YOUNG, FREE = "annabelle@example.org", "zoë+young@example.org", "free-rider@example.org"


@pytest.fixture
def hidden(tmp_path: Path, address: str, namespace: str) -> Iterator[House]:
    """A house with an id key and payload keys, and three users with ids that are easily recognised."""
    keys = tmp_path / "keys"
    keys.write_text(f"one:{base64.b64encode(os.urandom(32)).decode()}")
    with open_house(tmp_path / "home", address, namespace, id_key=SecretStr(KEY), payload_keys=keys) as found:
        found.load("users", f"user_id,first_name,plan,age\n{PAID},A,paid,30\n{YOUNG},Z,pro,17\n{FREE},F,free,50\n")
        found.load("devices", f"device_id,user_id,platform,token,opt_in\nd1,{PAID},ios,t,true\n")
        found.save(SAMPLE_DOCUMENTS)
        yield found


def plugin(house: House) -> JourneysPlugin:
    return JourneysPlugin(house.stores, sandbox=True, codec=open_codec(house.settings))


async def everything(house: House, count: int) -> tuple[set[str], bytes]:
    """All that the server has of a namespace: workflow ids, and the bytes of each description and history."""
    client = await Client.connect(house.address, namespace=house.namespace)
    ids, parts = set(), []
    for run in await listed(client, "", count):
        ids.add(run.id)
        handle = client.get_workflow_handle(run.id, run_id=run.run_id)
        parts.append(run.raw_info.SerializeToString())
        parts.append((await handle.describe()).raw_description.SerializeToString())
        parts += [event.SerializeToString() for event in (await handle.fetch_history()).events]
    return ids, b"".join(parts)


def test_a_pseudonym_is_an_hmac_of_the_id(house: House) -> None:
    """A pseudonym is HMAC-SHA256 with the key, 128 bits in base32: the same always, another for another key or user."""
    ids = Pseudonyms(house.stores.ledger.database, KEY.encode())
    digest = hmac.new(KEY.encode(), f"user\0{PAID}".encode(), hashlib.sha256).digest()
    assert ids.name(PAID) == base64.b32encode(digest[:16]).decode().strip("=").lower()
    assert len(ids.name(PAID)) == 26
    others = [
        Pseudonyms(house.stores.ledger.database, b"another key, and longer").name(PAID),
        ids.name(YOUNG),
        ids.name(""),
        ids.workflow_id("j", PAID, "k").split("/")[-1],
        ids.workflow_id("j", YOUNG, "k").split("/")[-1],
        ids.workflow_id("j", PAID, PAID).split("/")[-1],
    ]
    assert len({*others, ids.name(PAID)}) == 7
    assert ids.workflow_id("j", PAID) == f"journey/j/user/{ids.name(PAID)}"
    assert ids.workflow_id("j", "x" * 5_000).startswith("journey/j/user/")


def test_one_place_names_users() -> None:
    """What runs asks `Pseudonyms` for workflow ids: those that look for older runs also know the plain ones."""
    knowing = {
        path.name
        for folder in ("activities", "workers", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if "user_workflow_id" in path.read_text(encoding="utf-8")
    }
    measuring = {"record_histories.py", "bench_journeys.py"}
    assert knowing - measuring == {"pseudonyms.py", "life.py", "erasure.py", "runs.py"}


def test_without_a_key_nothing_changes(house: House) -> None:
    """Without a key a user is named by the id, and workflow ids are those that any client can make."""
    ids = house.stores.ids
    assert not ids.secret
    assert ids.name(YOUNG) == YOUNG
    assert ids.workflow_id("j", YOUNG, "k/1") == user_workflow_id("j", YOUNG, "k/1")
    assert ids.users(["anybody"]) == {"anybody": "anybody"}


async def test_nothing_in_the_cluster_names_a_user(hidden: House) -> None:
    """With both keys, no event, workflow id, search attribute, summary or memo of a whole journey holds a user's id."""
    async with hidden.serving(plugin=plugin(hidden)) as client:
        report = await hidden.engine.start("hello", client=client)
        stats = await hidden.engine.result(report, client=client)
        assert (stats.entered, stats.exited, stats.inside) == (2, {"end": 2}, 0)
        direct = await client.start_workflow(
            "UserJourney",
            UserJourneyInput(journey="hello", user_id=FREE),
            id=hidden.stores.ids.workflow_id("hello", FREE),
            task_queue=USERS_QUEUE,
        )
        assert (await direct.result())["reason"] == "not-running"
    ids, raw = await everything(hidden, 4)
    expected = {hidden.stores.ids.workflow_id("hello", user) for user in (PAID, YOUNG, FREE)}
    assert ids == {"journey/hello", *expected}
    for user in (PAID, YOUNG, FREE):
        for form in (user, quote(user, safe=""), user.encode().hex(), base64.b64encode(user.encode()).decode()):
            assert form.encode() not in raw
    assert hidden.stores.ids.name(PAID).encode() in raw  # the search attribute: a check that finds nothing is none
    reader = await hidden.client(plugin(hidden))
    query = f"JourneyUserId = '{hidden.stores.ids.name(YOUNG)}'"
    (run,) = await listed(reader, query, 1)
    assert run.typed_search_attributes[JOURNEY_USER_ID] == hidden.stores.ids.name(YOUNG)
    told = await reader.get_workflow_handle(run.id).describe()
    assert await told.static_summary() == f"Thank them: {hidden.stores.ids.name(YOUNG)}"


async def test_a_direct_start_needs_the_pseudonymous_id(hidden: House) -> None:
    """The entry refuses a run under the plain id and under another user's, and says which id it has to be."""
    async with hidden.serving(plugin=plugin(hidden)) as client:
        await hidden.engine.result(await hidden.engine.start("hello", client=client), client=client)
        for workflow_id in (user_workflow_id("hello", FREE), hidden.stores.ids.workflow_id("hello", PAID)):
            handle = await client.start_workflow(
                "UserJourney",
                UserJourneyInput(journey="hello", user_id=FREE),
                id=workflow_id,
                task_queue=USERS_QUEUE,
            )
            with pytest.raises(WorkflowFailureError) as caught:
                await handle.result()
            assert hidden.stores.ids.workflow_id("hello", FREE) in str(caught.value.cause)


@pytest.mark.parametrize("begun_before", [False, True])
async def test_terminated_runs_are_found_in_the_ledger(hidden: House, begun_before: bool) -> None:
    """A terminated run closes its user's passage, whether it was started by pseudonym or before there was a key."""
    hidden.hold_pushes(PAID)
    client = await hidden.client(plugin(hidden))
    document = hidden.stores.catalogue.find("journey", "hello")
    await hidden.stores.ledger.open_journey("hello", 1, document.digest, "l", document.saved_at)
    plain = user_workflow_id("hello", PAID)
    async with hidden.serving((USERS_QUEUE,), plugin=plugin(hidden)):
        handle = await client.start_workflow(
            "UserJourney",
            UserJourneyInput(journey="hello", user_id=PAID),
            id=hidden.stores.ids.workflow_id("hello", PAID),
            task_queue=USERS_QUEUE,
        )
        while hidden.stores.ledger.inside("hello") == 0:  # then waits for a worker of the pushes
            await asyncio.sleep(0.05)
        if begun_before:
            await handle.terminate()
            handle = await client.start_workflow(
                "UserJourney", UserJourneyInput(journey="hello", user_id=PAID), id=plain, task_queue="nobody"
            )
    await handle.terminate()
    closed = 0
    while not closed:  # what lists runs learns of the end a little later
        await asyncio.sleep(0.05)
        closed = await Endings(hidden.stores).reconcile(client, "hello")
    assert (closed, hidden.stores.ledger.inside("hello")) == (1, 0)


async def test_a_running_journey_is_operated_by_pseudonyms(hidden: House) -> None:
    """A user enters by a client's word, and is taken out again, under the pseudonymous workflow id."""
    hidden.save("""\
        journey: door
        entries:
          start: {kind: audience-entry, audience: {attribute: plan, is: nobody}, next: wait}
          ask: {kind: api-entry, next: wait}
        elements:
          wait: {kind: time-delay, duration: 30d, next: done}
          done: {kind: exit}
        """)
    async with hidden.serving(plugin=plugin(hidden)) as client:
        await hidden.engine.start("door", client=client)
        operator = Operator(client, "door")
        entered = await operator.enter(EnterRequest(users=[UserGiven(user_id=YOUNG)], request="r"))
        assert entered.entered == [hidden.stores.ids.workflow_id("door", YOUNG)]
        handle = client.get_workflow_handle(entered.entered[0])
        await operator.remove(TakeOutRequest(user_id=YOUNG, reason="asked"))
        assert (await handle.result())["reason"] == "asked"


def test_the_key_is_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short key is refused without being quoted, and no command shows the key."""
    here = Commands(tmp_path)
    monkeypatch.setenv("JOURNEYS_ID_KEY", "hunter2")
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert caught.value.faults[0].path == "JOURNEYS_ID_KEY"
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("JOURNEYS_ID_KEY", KEY)
    assert KEY not in here("settings").out + here("settings", "--json").out
    said = here("user", "id", PAID, "--json").json
    assert said["search_attribute"] == hidden_name(PAID)
    assert said["workflow_id"] is None
    assert here("user", "id", PAID, "nothing", "--json").codes == ["not-found"]


def hidden_name(user: str) -> str:
    digest = hmac.digest(KEY.encode(), f"user\0{user}".encode(), "sha256")[:16]
    return base64.b32encode(digest).decode().strip("=").lower()


def test_the_ledger_remembers_whom_a_pseudonym_stands_for(hidden: House) -> None:
    """Admission writes down the pseudonym of those who enter, once, and forgetting erases it."""
    ids, database = hidden.stores.ids, hidden.stores.ledger.database
    for _ in range(2):
        database.write_now(lambda connection: ids.remember(connection, [PAID, YOUNG]))
    assert ids.users([ids.name(PAID), ids.name(FREE)]) == {ids.name(PAID): PAID, ids.name(FREE): ids.name(FREE)}
    assert database.write_now(lambda connection: ids.forget(connection, PAID)) == 1
    rows: Any = database.read(lambda connection: connection.execute(pseudonyms.select()).all())
    assert [row.user_id for row in rows] == [YOUNG]
