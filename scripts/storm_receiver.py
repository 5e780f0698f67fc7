"""The provider of the storm: takes signed pushes on loopback, counts them in a file, and fails as it is told.

It is a process of its own, so that it can be killed like any other. What it has taken is written down before it
answers: its counts survive it, and are what the proof goes by.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from activities.push.webhook import signature

Mood = Literal["takes", "throttles", "breaks", "hangs", "cuts"]
"""What it does with a push: takes it; answers 429; answers 500; never answers; cuts the connection. Of those that it
leaves without an answer it has taken about every second one, as real ones may."""

HANG_SECONDS = 60.0
"""Longer than a sender waits."""


class Counted(BaseModel):
    """One push as it came: a line of the file."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    key: str
    """Its idempotency key."""
    taken: bool
    """Whether a device would have shown it."""
    mood: Mood
    forged: bool = False
    """Whether the signature or the key was wrong."""


class Order(BaseModel):
    """How the receiver is to be, for some seconds."""

    mood: Mood
    seconds: float


def read_counts(path: Path) -> Iterator[Counted]:
    """Read what was counted. A line that a kill cut off in the middle was never answered, and is no count."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            yield Counted.model_validate_json(line)
        except ValidationError:
            continue


class Receiver:
    """Takes pushes.

    Args:
        secret: What they are signed with.
        counts: The file that is appended to.
    """

    def __init__(self, secret: bytes, counts: Path) -> None:
        self._secret = secret
        self._file = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._mood: Mood = "takes"
        self._until = 0.0

    def application(self) -> web.Application:
        """Say what is served."""
        application = web.Application()
        application.router.add_post("/push", self._push)
        application.router.add_post("/mood", self._be)
        return application

    async def _be(self, request: web.Request) -> web.StreamResponse:
        order = Order.model_validate_json(await request.read())
        self._mood, self._until = order.mood, time.monotonic() + order.seconds
        return web.json_response({})

    async def _push(self, request: web.Request) -> web.StreamResponse:
        body, key = await request.read(), request.headers.get("Idempotency-Key", "")
        wanted = f"sha256={signature(self._secret, request.headers.get('Push-Timestamp', ''), body)}"
        mood: Mood = self._mood if time.monotonic() < self._until else "takes"
        signed = hmac.compare_digest(wanted, request.headers.get("Push-Signature", ""))
        if not signed or json.loads(body).get("push_id") != key:
            self._count(Counted(key=key, taken=False, mood=mood, forged=True))
            return web.Response(status=401)
        silent = mood in ("hangs", "cuts")
        taken = mood == "takes" or (silent and hashlib.sha256(key.encode()).digest()[0] % 2 == 0)
        self._count(Counted(key=key, taken=taken, mood=mood))
        if mood == "throttles":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if mood == "breaks":
            return web.Response(status=500)
        if mood == "hangs":
            await asyncio.sleep(HANG_SECONDS)
        if silent and request.transport is not None:
            request.transport.abort()
        return web.json_response({})

    def _count(self, one: Counted) -> None:
        """Append one line by one write, which no other line comes in between."""
        os.write(self._file, one.model_dump_json().encode() + b"\n")


def main() -> int:
    """Serve on loopback until killed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.storm_receiver", description="Count pushes, or fail.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--counts", type=Path, required=True, help="file to append to")
    parser.add_argument("--secret", required=True, help="what pushes are signed with")
    given = parser.parse_args()
    receiver = Receiver(given.secret.encode(), given.counts)
    web.run_app(receiver.application(), host="127.0.0.1", port=given.port, access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
