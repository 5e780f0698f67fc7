"""The codec server shows payloads to those who may see them: its protocol, the UI's pages, a token, loopback."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from temporalio.api.common.v1 import Payload

from tests.commands import Commands
from tests.test_codec import codec_of, write_keys
from workers.codec_server import is_loopback, run_codec_server
from workers.embedded import run_embedded_server, server_command
from workers.settings import Settings
from workflows.errors import RefusedError

UI = "http://localhost:8233"
TOKEN = "not-a-secret-in-a-test"  # noqa: S105


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path)


async def post(url: str, payloads: list[Payload], **headers: str) -> tuple[int, Any, Any]:
    """Ask a codec server as any HTTP client would: status, headers, body."""
    body = json.dumps({"payloads": [MessageToDict(payload) for payload in payloads]})
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers={"Content-Type": "application/json", **headers}) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


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
