"""Payloads are encrypted in Temporal, with keys that rotate, and shown by a codec server to those who may see them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import DataConverter

from tests.commands import Commands
from tests.house import House, listed
from workers.codec import JourneysCodec, KeyMissing, Unreadable, data_converter, open_codec, read_keys
from workers.codec_server import is_loopback, run_codec_server
from workers.embedded import run_embedded_server, server_command
from workers.plugin import JourneysPlugin
from workers.settings import Settings
from workflows.contracts import USERS_QUEUE, UserJourneyInput, user_workflow_id
from workflows.errors import NotFoundError, RefusedError, as_application_error

USER = "annabelle@example.org"
NAME = "Annabelle-Constance"
TEXT = "Special offer for you alone"
UI = "http://localhost:8233"
TOKEN = "not-a-secret-in-a-test"  # noqa: S105


def key_line(name: str) -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file of two keys."""
    path = tmp_path / "payload.keys"
    path.write_text(f"# newest first\n{key_line('2026-02')}\n{key_line('2026-01')}")
    return path


def codec_of(path: Path, compress_over: int = 0) -> JourneysCodec:
    return JourneysCodec(read_keys(path), compress_over)


async def test_payloads_come_back_whole_and_say_nothing(keys: Path) -> None:
    """Decoding gives what was encoded, byte for byte; encoded, nothing of it can be found, and no two are alike."""
    codec = codec_of(keys, compress_over=100)
    given_ = [
        Payload(metadata={"encoding": b"json/plain"}, data=text.encode()) for text in (TEXT, "", TEXT * 100, "é" * 300)
    ]
    encoded = await codec.encode([*given_, given_[0]])
    assert await codec.decode(encoded) == [*given_, given_[0]]
    for payload in encoded:
        assert payload.metadata["encoding"] == b"binary/encrypted"
        assert payload.metadata["encryption-key-id"] == b"2026-02"
        assert b"json/plain" not in payload.SerializeToString()
        assert TEXT.encode() not in payload.data
    assert encoded[0] != encoded[-1]
    assert len(encoded[2].data) < len(given_[2].data) / 5


async def test_the_layouts_are_those_of_temporals_samples(keys: Path) -> None:
    """A stranger with the key reads it: 12 bytes of nonce, then AES-256-GCM over the payload, inside it zlib's own."""
    (encoded,) = await codec_of(keys, compress_over=100).encode([Payload(data=TEXT.encode() * 50)])
    secret = base64.b64decode(keys.read_text().splitlines()[1].split(":")[1])
    inner = Payload.FromString(AESGCM(secret).decrypt(encoded.data[:12], encoded.data[12:], None))
    assert inner.metadata["encoding"] == b"binary/zlib"
    assert Payload.FromString(zlib.decompress(inner.data)).data == TEXT.encode() * 50


async def test_compression_alone(keys: Path) -> None:
    """Without keys, large payloads are compressed where that pays, and all others are sent as they are."""
    codec = JourneysCodec(None, compress_over=100)
    small, large, noise = Payload(data=b"x" * 100), Payload(data=b"x" * 101), Payload(data=os.urandom(500))
    encoded = await codec.encode([small, large, noise])
    assert [one.metadata.get("encoding") for one in encoded] == [None, b"binary/zlib", None]
    assert (encoded[0], encoded[2]) == (small, noise)
    assert await codec.decode(encoded) == [small, large, noise]


async def test_keys_rotate(keys: Path) -> None:
    """A new key on top encrypts from then on; what older keys encrypted, and what nobody did, is still read."""
    old = codec_of(keys)
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"before there were keys"')
    (before,) = await old.encode([plain])
    keys.write_text(key_line("2026-03") + keys.read_text())
    new = codec_of(keys)
    (after,) = await new.encode([plain])
    assert after.metadata["encryption-key-id"] == b"2026-03"
    assert await new.decode([before, after, plain]) == [plain, plain, plain]
    with pytest.raises(KeyMissing) as missing:
        await old.decode([after])
    (fault,) = missing.value.faults
    assert fault.code == "key-missing"
    for word in ("'2026-03'", "'2026-02', '2026-01'", str(keys), "JOURNEYS_PAYLOAD_KEYS"):
        assert word in f"{fault.message} {fault.hint}"
    with pytest.raises(KeyMissing, match=r"'2026-03'.*has: none"):
        await JourneysCodec(None).decode([after])


async def test_what_was_tampered_with_is_refused(keys: Path) -> None:
    """A changed byte, a cut payload, another key of the same id, and a payload that unpacks to no end are refused."""
    codec = codec_of(keys)
    (good,) = await codec.encode([Payload(data=TEXT.encode())])
    changed = bytes([good.data[20] ^ 1])
    for data in (good.data[:20] + changed + good.data[21:], good.data[:30], good.data[:5], b""):
        with pytest.raises(Unreadable, match="2026-02"):
            await codec.decode([Payload(metadata=good.metadata, data=data)])
    keys.write_text(key_line("2026-02"))
    with pytest.raises(Unreadable, match="2026-02"):
        await codec_of(keys).decode([good])
    zipped = {"encoding": b"binary/zlib"}
    bomb = zlib.compress(Payload(data=bytes(65 << 20)).SerializeToString())
    for data in (bomb, b"", b"no zlib", zlib.compress(b"\xff\xff no payload")):
        with pytest.raises(Unreadable):
            await codec.decode([Payload(metadata=zipped, data=data)])


@given(st.binary(max_size=200), st.sampled_from([b"binary/encrypted", b"binary/zlib", b"x"]), st.binary(max_size=9))
def test_no_payload_makes_a_traceback(data: bytes, encoding: bytes, key_id: bytes) -> None:
    """Whatever a payload holds, it is decoded, or refused by one of our errors."""
    codec = JourneysCodec(None)
    payload = Payload(metadata={"encoding": encoding, "encryption-key-id": key_id}, data=data)
    try:
        assert len(asyncio.run(codec.decode([payload]))) == 1
    except (KeyMissing, Unreadable):
        assert encoding != b"x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# only a remark\n", "holds no key"),
        ("no colon", "line 1 is not of the form id:key"),
        ("a:c2hvcnQ=", "line 1: the key 'a' is not the base64 of 32 bytes"),
        ("a:====", "line 1: the key 'a' is not the base64 of 32 bytes"),
        (f"a:{'A' * 43}=\na:{'B' * 43}=", "line 2: the id 'a' is given twice"),
        ("ä b:c", "line 1 is not of the form id:key"),
    ],
)
def test_a_wrong_file_of_keys_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A file of keys that cannot be used is refused with its line, and no key is quoted."""
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(RefusedError) as caught:
        open_codec(Settings(home=tmp_path, payload_keys=path))
    assert said in caught.value.message
    assert "JOURNEYS_PAYLOAD_KEYS" in caught.value.message
    assert all(line.partition(":")[2] not in caught.value.message for line in text.splitlines() if ":" in line)
    with pytest.raises(RefusedError, match="No such file"):
        read_keys(tmp_path / "absent")


def test_settings_choose_the_codec(tmp_path: Path, keys: Path) -> None:
    """Without settings there is no codec; compression has a default with keys only, and either can be had alone."""
    assert open_codec(Settings(home=tmp_path)) is None
    assert open_codec(Settings(home=tmp_path, payload_compression=0)) is None
    alone = open_codec(Settings(home=tmp_path, payload_compression=10))
    assert alone is not None
    assert alone.keys is None
    both = open_codec(Settings(home=tmp_path, payload_keys=keys))
    assert both is not None
    assert both.keys is not None
    assert repr(both.keys).count("AESGCM") == 0


async def test_failures_are_encrypted_too(keys: Path) -> None:
    """A failure's message, trace and details are encrypted with keys, and come back whole."""
    converter: DataConverter = data_converter(codec_of(keys))
    failure = Failure()
    try:
        raise as_application_error(NotFoundError(f"no user {USER}"))
    except Exception as error:
        await converter.encode_failure(error, failure)
    assert USER.encode() not in failure.SerializeToString()
    assert b"test_codec" not in failure.SerializeToString()
    back = await converter.decode_failure(failure)
    assert USER in str(back)


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


async def post(url: str, payloads: list[Payload], **headers: str) -> tuple[int, Any, Any]:
    """Ask a codec server as any HTTP client would: status, headers, body."""
    body = json.dumps({"payloads": [MessageToDict(payload) for payload in payloads]})
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers={"Content-Type": "application/json", **headers}) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


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


async def test_the_codec_server_keeps_to_the_protocol(keys: Path) -> None:
    """POST to any path that ends in /encode or /decode answers Payloads in JSON; what cannot be read is a 400."""
    codec = codec_of(keys)
    plain = [Payload(metadata={"encoding": b"json/plain"}, data=b'"one"'), Payload(data=b"\x00\xff")]
    async with run_codec_server(codec, origins=[UI], port=0) as address:
        status, headers, body = await post(f"{address}/any/depth/encode", plain, **{"X-Namespace": "any"})
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
        sealed = [ParseDict(one, Payload()) for one in json.loads(body)["payloads"]]
        assert await codec.decode(sealed) == plain
        status, _, body = await post(f"{address}/decode", sealed)
        assert [ParseDict(one, Payload()) for one in json.loads(body)["payloads"]] == plain
        assert (await post(f"{address}/decode", []))[0] == 200
        sealed[0].metadata["encryption-key-id"] = b"lost"
        status, _, body = await post(f"{address}/decode", sealed)
        assert status == 400
        assert "'lost'" in body
        async with aiohttp.ClientSession() as session:
            for text in (b"", b"{", b'{"payloads": 7}', b"\xff", b"[" * 100_000):
                async with session.post(f"{address}/decode", data=text) as answer:
                    assert answer.status == 400, text[:20]
            for method, path, expected in (
                ("GET", "/decode", 405),
                ("POST", "/", 404),
                ("POST", "/decode/x", 404),
                ("POST", "/undecode", 404),
            ):
                async with session.request(method, address + path) as answer:
                    assert answer.status == expected, (method, path)


async def test_only_pages_of_the_ui_may_ask(keys: Path) -> None:
    """A browser on the UI's page passes the preflight and reads the answer; on any other page it gets nothing."""
    async with run_codec_server(codec_of(keys), origins=[UI], port=0) as address:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-namespace,authorization",
        }
        async with (
            aiohttp.ClientSession() as session,
            session.options(f"{address}/decode", headers={"Origin": UI, **asked}) as answer,
        ):
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == UI
            assert answer.headers["Access-Control-Allow-Methods"] == "POST"
            allowed = answer.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
            assert set(allowed) == {"content-type", "x-namespace", "authorization"}
            assert "Access-Control-Allow-Credentials" not in answer.headers
        status, headers, _ = await post(f"{address}/decode", [], Origin=UI)
        assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, UI, "Origin")
        status, headers, _ = await post(f"{address}/nowhere", [], Origin=UI)
        assert (status, headers["Access-Control-Allow-Origin"]) == (404, UI)
        for other in ("http://evil.example", "null", f"{UI}.evil.example", address):
            status, headers, body = await post(f"{address}/decode", [], Origin=other)
            assert status == 403
            assert "Access-Control-Allow-Origin" not in headers
            assert "payloads" not in body


async def test_a_token_is_asked_for(keys: Path) -> None:
    """With a token, who does not send it gets 401 and nothing else; the page of the UI can read that answer."""
    async with run_codec_server(codec_of(keys), origins=[UI], token=TOKEN, port=0) as address:
        for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
            status, headers, body = await post(f"{address}/decode", [], Origin=UI, **sent)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
            assert headers["Access-Control-Allow-Origin"] == UI
            assert TOKEN not in body
        assert (await post(f"{address}/decode", [], Authorization=f"Bearer {TOKEN}"))[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_beyond_loopback_a_token_is_needed(keys: Path, host: str) -> None:
    """The codec server listens to other machines only with a token."""
    assert not is_loopback(host)
    with pytest.raises(RefusedError, match="without a token"):
        async with run_codec_server(codec_of(keys), origins=[], host=host, port=0):
            pass


def test_the_command_serves_on_loopback(tmp_path: Path, keys: Path) -> None:
    """`journeys codec-server` listens on loopback unless told otherwise, stops on SIGTERM, and needs keys."""
    here = Commands(tmp_path / "here")
    assert here("codec-server", "--json").codes == ["no-keys"]
    settings = {"JOURNEYS_PAYLOAD_KEYS": str(keys)}
    process = here.program("codec-server", "--port", "0", "--origin", f"{UI}/namespaces", "--json", **settings)
    said = json.loads(process.stdout.readline())
    assert said["address"].startswith("http://127.0.0.1:")
    assert (said["origins"], said["token"]) == ([UI], False)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert here.run("codec-server", "--host", "0.0.0.0", "--json", **settings).codes == ["no-token"]


def listening(pid: int) -> set[str]:
    """The addresses, in hexadecimal as Linux has them, that a process listens on."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


async def test_the_embedded_server_listens_on_loopback(tmp_path: Path) -> None:
    """Every port that the embedded Temporal server opens, its UI's too, can be reached from this machine only."""
    async with run_embedded_server(Settings(home=tmp_path)) as server:
        assert listening(server.pid) == {"0100007F"}


def test_the_embedded_ui_knows_the_codec_server(tmp_path: Path, keys: Path) -> None:
    """With payload keys the embedded UI asks the codec server's usual place, and without them none."""
    command = server_command(Settings(home=tmp_path, payload_keys=keys), 1, 2)
    assert command[command.index("--ui-codec-endpoint") + 1] == "http://127.0.0.1:8234"
    assert "--ui-codec-endpoint" not in server_command(Settings(home=tmp_path), 1, 2)
