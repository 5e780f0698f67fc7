"""Where Web Push may post: to hosts that the list allows, and nowhere for what is no subscription."""

from __future__ import annotations

import json
from typing import Any

import pytest
from yarl import URL

from activities.push.provider import Verdict
from activities.push.webpush import HOSTS, is_allowed
from tests.http_peer import Behaviour
from tests.webpush_peer import encoded
from tests.webpush_site import Site, make_site, notification, target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


async def test_only_allowed_hosts_are_posted_to(site: Site) -> None:
    """An endpoint elsewhere, on another port, without TLS or with a name in it is refused unsent; so are redirects."""
    async with site.serving() as peer, site.serving() as inside, site.client(peer) as push:
        good = json.loads(peer.subscribe())
        path = URL(good["endpoint"]).path
        for endpoint in (
            f"{inside.url}{path}",
            f"http://127.0.0.1:{peer.port}{path}",
            f"https://user@127.0.0.1:{peer.port}{path}",
            f"https://127.0.0.1:{peer.port}@127.0.0.1:{inside.port}{path}",
            f"https://[::1]:{peer.port}{path}",
            f"https://fcm.googleapis.com.evil.example{path}",
            "https://fcm.googleapis.com:8443/x",
            "https://169.254.169.254/latest/meta-data",
            f"ftp://127.0.0.1:{peer.port}{path}",
        ):
            answer = await push.send(notification(), target(json.dumps({**good, "endpoint": endpoint})))
            assert answer.verdict is Verdict.MESSAGE_BAD, endpoint
            assert "is not allowed" in answer.detail
        peer.default = Behaviour(307, b"", {"Location": f"{inside.url}{path}"})
        assert (await push.send(notification(), target(json.dumps(good)))).verdict is Verdict.MESSAGE_BAD
        assert (len(peer.received), len(inside.received)) == (1, 0)


def test_the_list_of_hosts_means_what_it_says() -> None:
    """Names match whole, `*.` matches below and not the name itself, ports and http only where the list names them."""
    allowed = [
        "https://fcm.googleapis.com/fcm/send/x",
        "https://FCM.googleapis.com:443/x",
        "https://updates.push.services.mozilla.com/wpush/v2/x",
        "https://eu.push.services.mozilla.com/x",
        "https://wns2-par02p.notify.windows.com/w/?token=x",
        "https://web.push.apple.com/x",
        "https://eu.push.apple.com/x",
    ]
    refused = [
        "https://googleapis.com/x",
        "https://xfcm.googleapis.com/x",
        "https://notify.windows.com/x",
        "https://evilnotify.windows.com/x",
        "https://notify.windows.com.evil.example/x",
        "http://fcm.googleapis.com/x",
        "//fcm.googleapis.com/x",
        "fcm.googleapis.com/x",
        "https:///x",
        "https://evil.example#@fcm.googleapis.com/x",
    ]
    assert [one for one in allowed if not is_allowed(URL(one), HOSTS)] == []
    assert [one for one in refused if is_allowed(URL(one), HOSTS)] == []
    own = ("http://push.example.com", "*.example.org:8443")
    assert is_allowed(URL("http://push.example.com/x"), own)
    assert is_allowed(URL("https://a.example.org:8443/x"), own)
    assert not is_allowed(URL("https://push.example.com/x"), own)
    assert not is_allowed(URL("https://a.example.org/x"), own)


async def test_what_is_no_subscription_is_dead_and_never_sent(site: Site) -> None:
    """A token that is no subscription, or whose keys no browser made, is marked; nothing raises."""
    async with site.serving() as peer, site.client(peer) as push:
        good = json.loads(peer.subscribe())
        p256dh, auth = good["keys"]["p256dh"], good["keys"]["auth"]
        wrong: list[Any] = [None, 7, [], {}, "x", {"endpoint": good["endpoint"]}, {**good, "keys": []}]
        wrong += [
            {**good, "endpoint": each}
            for each in (
                None,
                3,
                "https://127.0.0.1:99999/x",
                "https://[::1/x",
                "https://evil.example\\@fcm.googleapis.com/x",
                [],
            )
        ]
        wrong += [{**good, "keys": {"p256dh": each, "auth": auth}} for each in (None, "", "é", "AAAA", p256dh[:-8], 5)]
        wrong += [{**good, "keys": {"p256dh": encoded(b"\4" + b"\1" * 64), "auth": auth}}]
        wrong += [{**good, "keys": {"p256dh": p256dh, "auth": each}} for each in ("", "é", None)]
        for one in wrong:
            answer = await push.send(notification(), target(json.dumps(one)))
            assert answer.verdict in (Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD), (one, answer)
            assert "not sent" in answer.detail, one
        assert (await push.send(notification(), target("{"))).verdict is Verdict.TOKEN_DEAD
        assert peer.received == []
