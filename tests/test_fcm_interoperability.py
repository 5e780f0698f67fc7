"""Our FCM against Google's own client: it takes our payload, and hears each error as the error that it names."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.certificates import account_key
from tests.test_fcm import DOCUMENTED, PROJECT, Site, make_site, notification, target

PACKAGE = "firebase-admin@13.10.0"

NODE_PROGRAM = """
const tls = require('tls'), https = require('https');
const given = JSON.parse(process.argv[2]);
const admin = require('firebase-admin');
// Whatever Google's client is told to reach, it reaches the peer: under Google's names, with the peer's certificate.
class Redirected extends https.Agent {
  createConnection(options, done) {
    return tls.connect({ host: '127.0.0.1', port: given.port, servername: options.host, ca: given.ca }, done);
  }
}
const httpAgent = new Redirected({ keepAlive: false });
https.globalAgent = httpAgent;
const make = (account, name) => admin.initializeApp(
  { credential: admin.credential.cert(account, httpAgent), projectId: account.project_id, httpAgent }, name);
const send = (app, message) => app.messaging().send(message).then((id) => ['', id], (error) => [error.code, '']);
(async () => {
  const app = make(given.account, 'right');
  const heard = [];
  for (const message of given.messages) heard.push(await send(app, message));
  const wrong = await send(make(given.stranger, 'wrong'), given.messages[0]);
  console.log(JSON.stringify({ heard, wrong }));
  process.exit(0);
})();
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Google's own client for Node, from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"LEFT OUT: node and npm are not installed, so {PACKAGE} did not check the FCM peer")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--omit=optional", PACKAGE]
    try:
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"LEFT OUT: npm did not install {PACKAGE} within 60 s, so it did not check the FCM peer")
    if done.returncode:
        pytest.skip(f"LEFT OUT: npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "send.js").write_text(NODE_PROGRAM)
    return folder


async def test_a_foreign_client_agrees_with_the_peer(site: Site, node_folder: Path) -> None:
    """The peer as Google's own client hears it: our payload is valid to it, each error is the error that it names."""
    named = {
        "UNREGISTERED": "messaging/registration-token-not-registered",
        "SENDER_ID_MISMATCH": "messaging/mismatched-credential",
        "INVALID_ARGUMENT": "messaging/invalid-argument",
        "THIRD_PARTY_AUTH_ERROR": "messaging/third-party-auth-error",
        "QUOTA_EXCEEDED": "messaging/message-rate-exceeded",
    }
    async with site.serving() as peer, site.client(peer) as fcm:
        peer.by_address = {name: DOCUMENTED[name][0] for name in named}
        full = notification(image="https://example.com/p.png", link="https://example.com/", badge=1, collapse_key="k")
        ours = fcm.payload(full, target("good", "ios"))["message"]
        ours["apns"]["payload"] = {"aps": {"alert": {"title": "t"}, "badge": 1}}
        messages = [ours, *({**ours, "token": name} for name in named)]
        given = {
            "port": peer.port,
            "ca": site.authority.ca_file.read_text(),
            "account": site.account("https://oauth2.googleapis.com/token"),
            "stranger": site.account("https://oauth2.googleapis.com/token", account_key()),
            "messages": messages,
        }
        program = await asyncio.create_subprocess_exec(
            "node", "send.js", json.dumps(given), cwd=node_folder, stdout=-1, stderr=-1
        )
        out, noise = await asyncio.wait_for(program.communicate(), 40)
        assert program.returncode == 0, noise.decode()
        found = json.loads(out.splitlines()[-1])
    assert found["heard"][0] == ["", f"projects/{PROJECT}/messages/1"]
    assert [code for code, _ in found["heard"][1:]] == list(named.values())
    assert found["wrong"][0] == "app/invalid-credential"
    assert peer.deliveries.total() == 1
