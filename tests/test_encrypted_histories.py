"""Histories of runs say nothing of a user where there are keys, and those who have the keys read everything."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError

from tests.house import House, listed
from tests.test_codec import TEXT, USER, codec_of, key_line, write_keys
from tests.test_codec_server import UI, post
from tests.test_connecting import configure
from workers.codec import JourneysCodec, KeyMissing
from workers.codec_server import run_codec_server
from workers.diagnosis import examine
from workers.plugin import JourneysPlugin
from workers.serving import serving
from workers.settings import Settings
from workflows.contracts import USERS_QUEUE, UserJourneyInput, user_workflow_id

NAME = "Annabelle-Constance"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path)


@pytest.fixture
async def encrypted(house: House, keys: Path) -> House:
    """The house, with a user whose data is easily recognised."""
    house.load("users", f"user_id,first_name,plan,age\n{USER},{NAME},paid,30\n")
    house.load("devices", f"device_id,user_id,platform,token,opt_in\ndd,{USER},ios,tt,true\n")
    house.save(f"""\
        journey: secret
        title: Thank them
        entries:
          start: {{kind: audience-entry, audience: {{attribute: first_name, is: {NAME}}}, next: promo}}
        elements:
          promo:
            kind: push
            message: {{title: "{TEXT}, {{{{ user.first_name }}}}", body: "-20 %"}}
            next: done
          done: {{kind: exit}}
        """)
    return house


def plugin_of(house: House, codec: JourneysCodec | None) -> JourneysPlugin:
    return JourneysPlugin(house.stores, sandbox=True, codec=codec)


async def raw_histories(house: House, count: int) -> dict[str, list[Any]]:
    """Every event of so many workflows as the server has it, by a client without our converter."""
    client = await Client.connect(house.address, namespace=house.namespace)
    return {
        run.id: list((await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()).events)
        for run in await listed(client, "", count, closed=False)
    }


def payloads_in(message: Any) -> list[Payload]:
    """All payloads of a message, however deep."""
    if isinstance(message, Payload):
        return [message]
    found = []
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        is_map = field.message_type.GetOptions().map_entry
        many = value.values() if is_map else value if field.is_repeated else [value]
        found += [payload for one in many if hasattr(one, "ListFields") for payload in payloads_in(one)]
    return found


async def test_a_history_says_nothing_and_the_codec_server_shows_it(
    encrypted: House, keys: Path, temporal_program: str
) -> None:
    """With keys no history holds a value of a user; the codec server gives the values, also to a client in Go."""
    codec = codec_of(keys, compress_over=500)
    async with encrypted.serving(plugin=plugin_of(encrypted, codec)) as client:
        report = await encrypted.engine.start("secret", client=client)
        stats = await encrypted.engine.result(report, client=client)
        assert stats.exited == {"end": 1}
    histories = await raw_histories(encrypted, 2)
    assert len(histories) == 2
    events = [event for found in histories.values() for event in found]
    raw = b"".join(event.SerializeToString() for event in events)
    assert NAME.encode() not in raw
    assert TEXT.encode() not in raw
    payloads = [payload for event in events for payload in payloads_in(event)]
    assert {payload.metadata["encoding"] for payload in payloads} >= {b"binary/encrypted"}
    sealed = [payload for payload in payloads if payload.metadata["encoding"] == b"binary/encrypted"]
    async with run_codec_server(codec, origins=[UI], port=0) as address:
        status, _, body = await post(f"{address}/decode", sealed)
        assert status == 200
        shown = [ParseDict(one, Payload()) for one in json.loads(body)["payloads"]]
        assert shown == await codec.decode(sealed)
        assert any(USER.encode() in payload.data for payload in shown)
        process = await asyncio.create_subprocess_exec(
            *(temporal_program, "workflow", "show", "--output", "json", "--codec-endpoint", f"{address}/{{namespace}}"),
            *("--address", encrypted.address, "--namespace", encrypted.namespace),
            *("--workflow-id", user_workflow_id("secret", USER)),
            stdout=asyncio.subprocess.PIPE,
        )
        seen, _ = await process.communicate()
        started = json.loads(seen)["events"][0]["workflowExecutionStartedEventAttributes"]
        assert json.loads(base64.b64decode(started["input"]["payloads"][0]["data"]))["user_id"] == USER


async def test_a_worker_without_the_key_says_which(encrypted: House, keys: Path) -> None:
    """A run whose input was encrypted with a key that the worker lacks waits, says which key, and goes on with it."""
    codec = codec_of(keys)
    other = keys.with_name("other.keys")
    other.write_text(key_line("else"))
    client = await encrypted.client(plugin_of(encrypted, codec))
    await encrypted.stores.ledger.open_journey(
        "secret", 1, encrypted.stores.catalogue.find("journey", "secret").digest, "l", datetime.now(UTC)
    )
    handle = await client.start_workflow(
        "UserJourney",
        UserJourneyInput(journey="secret", user_id=USER),
        id=user_workflow_id("secret", USER),
        task_queue=USERS_QUEUE,
        task_timeout=timedelta(seconds=1),
    )
    async with encrypted.serving(plugin=plugin_of(encrypted, codec_of(other))):
        said = b""
        while b"else" not in said:
            await asyncio.sleep(0.1)
            events = (await raw_histories(encrypted, 1))[handle.id]
            failed = [one for one in events if one.HasField("workflow_task_failed_event_attributes")]
            said = b"".join(payload.metadata["encryption-key-id"] for event in failed for payload in payloads_in(event))
        shown = await codec_of(other).decode([payload for event in failed for payload in payloads_in(event)])
        assert any(b"2026-02" in payload.data and b"has: 'else'" in payload.data for payload in shown)
    async with encrypted.serving(plugin=plugin_of(encrypted, codec)):
        assert (await handle.result())["admitted"]


async def test_a_worker_that_can_read_no_run_does_not_start(
    encrypted: House, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the key of any open run a worker does not start, and doctor says why; one run that it reads is enough."""
    configure(monkeypatch, TEMPORAL_ADDRESS=encrypted.address, TEMPORAL_NAMESPACE=encrypted.namespace)
    settings = encrypted.settings

    async def refused(given: Settings) -> str:
        with pytest.raises(KeyMissing) as caught:
            async with serving(given):
                raise AssertionError("it serves")
        assert [check.message for check in await examine(given) if check.check == "runs"] == [caught.value.message]
        return caught.value.message

    async def serves(given: Settings) -> bool:
        async with serving(given):
            (told,) = [check for check in await examine(given) if check.check == "runs"]
            return told.ok

    async def waiting_run(user: str, codec: JourneysCodec | None) -> None:
        await (await encrypted.client(plugin_of(encrypted, codec))).start_workflow(
            "UserJourney", UserJourneyInput(journey="none", user_id=user), id=user, task_queue="nobody-serves"
        )

    assert await serves(settings)
    await waiting_run("a", codec_of(keys))
    reader = await encrypted.client()
    await listed(reader, "", 1, closed=False)
    assert "'2026-02', which this process does not have; it has: none" in await refused(settings)
    other = keys.with_name("other.keys")
    other.write_text(key_line("else"))
    assert "it has: 'else'" in await refused(settings.model_copy(update={"payload_keys": other}))
    assert await serves(settings.model_copy(update={"payload_keys": keys}))
    await waiting_run("b", None)
    await listed(reader, "", 2, closed=False)
    assert await serves(settings)


async def test_a_refusal_reaches_the_client_readable(encrypted: House, keys: Path) -> None:
    """A run that fails shows nothing in its history, and its client reads our message."""
    plugin = plugin_of(encrypted, codec_of(keys))
    async with encrypted.serving(plugin=plugin) as client:
        handle = await client.start_workflow(
            "UserJourney", UserJourneyInput(journey="secret", user_id=USER), id="elsewhere", task_queue=USERS_QUEUE
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert USER in str(caught.value.cause)
    raw = b"".join(event.SerializeToString() for event in (await raw_histories(encrypted, 1))["elsewhere"])
    assert USER.encode() not in raw
    assert b"journey/secret" not in raw
