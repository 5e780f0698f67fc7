"""Our APNs against what is not ours: the client agrees with another's server, the peer with another's client."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from activities.push.apns import Apns, ApnsConfig
from activities.push.provider import Answer, Verdict
from tests.apns_peer import Behaviour
from tests.certificates import private_pem, signing_key
from tests.test_apns import KEY_ID, TEAM_ID, TOPIC, Site, make_site, notification, target, verdicts

NODE_APN = "@parse/node-apn@8.1.0"

NODE_SERVER = """
const http2 = require('http2');
const given = JSON.parse(process.argv[2]);
const seen = {};
const server = http2.createSecureServer({
  key: given.key, cert: given.cert, settings: { maxConcurrentStreams: 20, initialWindowSize: 1000 },
});
server.on('session', (session) => { session.left = 100; });
server.on('stream', (stream, headers) => {
  const session = stream.session;
  let body = '';
  stream.on('data', (part) => { body += part; });
  stream.on('end', () => {
    const id = headers['apns-id'];
    seen[id] = (seen[id] || 0) + 1;
    const dead = JSON.parse(body).aps.badge === 1;
    stream.respond({ ':status': dead ? 410 : 200, 'apns-id': id });
    stream.end(dead ? JSON.stringify({ reason: 'Unregistered', timestamp: 1760000000123 }) : undefined);
    session.left -= 1;
    if (session.left === 0) session.close();
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => { console.log(JSON.stringify(Object.values(seen))); process.exit(0); });
process.stdin.resume();
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


@pytest.mark.skipif(shutil.which("node") is None, reason="LEFT OUT: node is not installed, so its HTTP/2 was not met")
async def test_the_client_agrees_with_a_foreign_server(site: Site) -> None:
    """Node's own HTTP/2, with 20 streams, windows of 1,000 bytes and GOAWAY each 100: all answered, none twice."""
    certificate = site.certificate
    given = {"key": certificate.key_file.read_text(), "cert": certificate.certificate_file.read_text()}
    server = await asyncio.create_subprocess_exec(
        "node", "-e", NODE_SERVER, "server", json.dumps(given), stdin=-1, stdout=-1
    )
    assert server.stdin is not None
    assert server.stdout is not None
    url = f"https://localhost:{int(await server.stdout.readline())}"
    config = ApnsConfig(private_pem(site.key), KEY_ID, TEAM_ID, TOPIC, base_url=url, ca_file=site.authority.ca_file)
    apns = Apns(config)

    async def one(number: int) -> Answer:
        message = notification(body="x" * 3_000, badge=number % 2)
        for _ in range(5):
            answer = await apns.send(message, target())
            if answer.verdict is not Verdict.NOT_SENT:
                break
        return answer

    answers = await asyncio.gather(*(one(number) for number in range(500)))
    await apns.close()
    server.stdin.close()
    counts = json.loads(await server.stdout.readline())
    await server.wait()
    assert verdicts(answers) == {"accepted": 250, "token-dead": 250}
    assert counts == [1] * 500


NODE_PROGRAM = """
const apn = require('@parse/node-apn');
const given = JSON.parse(process.argv[2]);
const provider = new apn.Provider({
  token: { key: given.key, keyId: given.keyId, teamId: given.teamId },
  address: '127.0.0.1', port: given.port, ca: [given.ca], production: false,
});
const note = new apn.Notification({ topic: given.topic, alert: { title: 'Hello', body: 'World' }, pushType: 'alert' });
provider.send(note, given.devices).then((result) => {
  const failed = result.failed.map((one) => [one.device, one.status || 0, (one.response || {}).reason || '']);
  console.log(JSON.stringify({ sent: result.sent.map((one) => one.device), failed }));
  provider.shutdown();
});
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a foreign APNs client, from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"LEFT OUT: node and npm are not installed, so {NODE_APN} did not check the APNs peer")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", NODE_APN]
    try:
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"LEFT OUT: npm did not install {NODE_APN} within 60 s, so it did not check the APNs peer")
    if done.returncode:
        pytest.skip(f"LEFT OUT: npm cannot install {NODE_APN}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "send.js").write_text(NODE_PROGRAM)
    return folder


async def test_a_foreign_client_agrees_with_the_peer(site: Site, node_folder: Path) -> None:
    """The peer as npm's node-apn hears it: its signature accepted, another's refused, every error with its reason."""
    errors = {
        "aa" * 32: Behaviour(400, "BadDeviceToken"),
        "bb" * 32: Behaviour(410, "Unregistered", timestamp=1_760_000_000_123),
        "cc" * 32: Behaviour(403, "Forbidden"),
    }
    good = [f"{number:064x}" for number in range(200)]
    async with site.serving() as peer:
        peer.by_device = errors
        heard = []
        for key in (site.key, signing_key()):
            given = {
                **{"key": private_pem(key).decode(), "keyId": KEY_ID, "teamId": TEAM_ID, "topic": TOPIC},
                **{"port": peer.port, "ca": site.authority.ca_file.read_text(), "devices": [*good, *errors]},
            }
            program = await asyncio.create_subprocess_exec(
                "node", "send.js", json.dumps(given), cwd=node_folder, stdout=-1, stderr=-1
            )
            out, noise = await asyncio.wait_for(program.communicate(), 30)
            assert program.returncode == 0, noise.decode()
            heard.append(json.loads(out))
            if key is site.key:
                assert sum(peer.deliveries.values()) == 200
        assert sum(peer.deliveries.values()) == 200
    right, wrong = heard
    assert sorted(right["sent"]) == good
    assert sorted(right["failed"]) == sorted([device, one.status, one.reason] for device, one in errors.items())
    assert wrong["sent"] == []
    assert {(status, reason) for _, status, reason in wrong["failed"]} == {(403, "InvalidProviderToken")}
