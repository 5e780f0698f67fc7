"""The Web Push peer against what is not ours: it agrees with the client that npm has."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from yarl import URL

from tests.certificates import signing_key
from tests.webpush_peer import encoded, point, said
from tests.webpush_site import SUBJECT, Site, make_site

PACKAGE = "web-push@3.6.7"

NODE_PROGRAM = """
const push = require('web-push');
const given = JSON.parse(process.argv[2]);
const send = (subscription, vapidDetails, payload) => push.sendNotification(subscription, payload,
  { vapidDetails, TTL: 60, urgency: 'high', topic: 'abc' }).then((one) => one.statusCode, (one) => one.statusCode);
(async () => {
  const heard = [];
  for (const one of given.subscriptions) heard.push(await send(one, given.right, given.payload));
  heard.push(await send(given.subscriptions[0], given.wrong, given.payload));
  heard.push(await send(given.subscriptions[0], given.right, 'x'.repeat(5000)));
  console.log(JSON.stringify(heard));
})();
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a foreign Web Push client, from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"LEFT OUT: node and npm are not installed, so {PACKAGE} did not check the Web Push peer")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"LEFT OUT: npm did not install {PACKAGE} within 60 s, so it did not check the Web Push peer")
    if done.returncode:
        pytest.skip(f"LEFT OUT: npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "send.js").write_text(NODE_PROGRAM)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


async def test_a_foreign_client_agrees_with_the_peer(site: Site, node_folder: Path) -> None:
    """The peer as npm's web-push meets it: decrypted and signed as ours is; a strange key, a gone browser refused."""

    def details(key: EllipticCurvePrivateKey) -> dict[str, str]:
        private = encoded(key.private_numbers().private_value.to_bytes(32))
        return {"subject": SUBJECT, "publicKey": point(key), "privateKey": private}

    async with site.serving() as peer:
        subscriptions = [json.loads(peer.subscribe(point(site.key))) for _ in range(4)]
        names = [URL(one["endpoint"]).name for one in subscriptions]
        peer.by_address = {names[1]: said(410, 106), names[2]: said(429, 201)}
        del peer.browsers[names[3]]
        payload = json.dumps({"title": "é", "data": {"push_id": "1"}})
        given = {"subscriptions": subscriptions, "payload": payload}
        given |= {"right": details(site.key), "wrong": details(signing_key())}
        words = ["node", "--use-openssl-ca", "send.js", json.dumps(given)]
        environment = {
            "PATH": str(Path(shutil.which("node") or "").parent),
            "SSL_CERT_FILE": str(site.authority.ca_file),
        }
        program = await asyncio.create_subprocess_exec(*words, cwd=node_folder, env=environment, stdout=-1, stderr=-1)
        out, noise = await asyncio.wait_for(program.communicate(), 30)
        assert program.returncode == 0, noise.decode()
    assert json.loads(out) == [201, 410, 429, 404, 403, 413]
    assert peer.deliveries == {"1": 1}
    assert json.loads(peer.plaintexts[0]) == json.loads(payload)
