"""Measure pushes: `python -m scripts.bench_push [--json] [--messages N] [--rounds N]`, each provider against its peer.

The peers of the tests run in a process of their own, over TLS on loopback. Each provider sends the same messages by its
adapter and by a bare client library: aiohttp for FCM and the webhook, h2 for APNs, pywebpush for Web Push. They take
turns in each round, so that whatever else the machine does meets both; the first round, not counted, opens connections
and fetches tokens. Figures are medians: messages a second, and the processor time of this process for each message,
which says more than the clock where the peer shares the cores.

The goal is 1.3 times the best that was measured when the libraries were chosen, which needed for a message, in ms:
aiohttp 0.35 (FCM), h2 0.19 (APNs), pywebpush's encoder on aiohttp 0.34 (Web Push).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from activities.push.apns import Apns, ApnsConfig
from activities.push.fcm import Fcm, FcmConfig
from activities.push.provider import Notification, Provider, Target, Verdict
from activities.push.webhook import Webhook, WebhookConfig
from activities.push.webpush import WebPush, WebPushConfig
from scripts.bare_clients import bare_apns, bare_fcm, bare_webhook, bare_webpush
from scripts.output import people, print_table

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = 2_000
ROUNDS = 5
IN_FLIGHT = 100
GOAL = 1.3
BEST_MS = {"fcm": 0.35, "apns": 0.19, "webpush": 0.34, "webhook": 0.35}
"""The best processor time that a message took when the libraries were compared; the webhook's is aiohttp's, too."""

Send = Callable[[Notification, Target], Awaitable[bool]]
"""Sends one message, and tells whether it was accepted."""


@dataclass(frozen=True)
class Contest:
    """One provider, with the adapter and the bare client that send to it."""

    ours: Send
    bare: Send
    targets: list[Target]


@asynccontextmanager
async def peers(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Run the peers, and give what a client needs to be let in."""
    words = [sys.executable, "-m", "tests.push_peers", str(folder)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 20)
    try:
        line = await process.stdout.readline() if process.stdout else b""
        if not line:
            raise SystemExit("the peers did not start: run this in a checkout, whose folder tests/ holds them")
        yield json.loads(line)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def contests(access: dict[str, Any]) -> AsyncIterator[dict[str, Contest]]:
    """Open every adapter and every bare client."""
    ca_file, web = access["ca_file"], access["webpush"]
    providers: dict[str, Provider] = {
        "fcm": Fcm(FcmConfig(**access["fcm"], ca_file=ca_file)),
        "apns": Apns(ApnsConfig(**access["apns"], ca_file=ca_file)),
        "webpush": WebPush(WebPushConfig(web["key"], "mailto:push@example.com", hosts=(web["host"],), ca_file=ca_file)),
        "webhook": Webhook(WebhookConfig(**access["webhook"], ca_file=ca_file)),
    }
    addresses = {"apns": ["ab" * 32], "webpush": web["subscriptions"]}
    try:
        async with (
            bare_fcm(access["fcm"], ca_file) as fcm,
            bare_apns(access["apns"], ca_file) as apns,
            bare_webpush(web, ca_file) as webpush,
            bare_webhook(access["webhook"], ca_file) as webhook,
        ):
            bare = {"fcm": fcm, "apns": apns, "webpush": webpush, "webhook": webhook}
            yield {
                name: Contest(
                    _sending(provider),
                    bare[name],
                    [Target(token[-8:], "u1", "android", token) for token in addresses.get(name, ["f:APA91b"])],
                )
                for name, provider in providers.items()
            }
    finally:
        for provider in providers.values():
            await provider.close()


def _sending(provider: Provider) -> Send:
    async def send(notification: Notification, target: Target) -> bool:
        return (await provider.send(notification, target)).verdict is Verdict.ACCEPTED

    return send


def message(number: int) -> Notification:
    """Make the message of a number: like what journeys send, and never the same twice."""
    push_id = str(UUID(int=number))
    return Notification(
        push_id=push_id,
        title="Merci Anna",
        body="-20 % jusqu'à dimanche, sur tout ce que vous avez mis de côté",
        link="myapp://offers/20",
        data={"push_id": push_id, "journey": "win-back", "element": "promo"},
        collapse_key="5f2b8c1d9e0a4b7c6d3e2f10",
    )


async def measure(send: Send, targets: list[Target], messages: int) -> tuple[float, float]:
    """Send messages, many at a time.

    Returns:
        Messages a second, and milliseconds of processor time for each.
    """
    made = [(message(number), targets[number % len(targets)]) for number in range(messages)]
    left = iter(made)

    async def worker() -> int:
        return sum([await send(notification, target) for notification, target in left])

    began, cpu = time.perf_counter(), time.process_time()
    accepted = sum(await asyncio.gather(*(worker() for _ in range(min(IN_FLIGHT, messages)))))
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    if accepted != messages:
        raise SystemExit(f"{messages - accepted} of {messages} messages were not accepted")
    return messages / seconds, 1_000 * cpu / messages


async def compare(messages: int, rounds: int) -> dict[str, Any]:
    """Measure every provider, and its bare client beside it."""
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="journeys-bench-") as scratch:
        async with peers(Path(scratch)) as access, contests(access) as found:
            for name, contest in found.items():
                sends = {"ours": contest.ours, "bare": contest.bare}
                figures[name] = {who: [] for who in sends}
                for number in range(rounds + 1):
                    for who, send in sends.items():
                        taken = await measure(send, contest.targets, messages)
                        if number:
                            figures[name][who].append(taken)
    return {name: _summary(name, of) for name, of in figures.items()}


def _summary(name: str, figures: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    ours, bare = (
        {
            "per_second": round(statistics.median(rate for rate, _ in figures[who])),
            "cpu_ms": round(statistics.median(cpu for _, cpu in figures[who]), 3),
        }
        for who in ("ours", "bare")
    )
    return {
        "ours": ours,
        "bare": bare,
        "to_bare": round(ours["cpu_ms"] / bare["cpu_ms"], 2),
        "to_best": round(ours["cpu_ms"] / BEST_MS[name], 2),
        "goal_reached": ours["cpu_ms"] <= GOAL * BEST_MS[name],
    }


def main() -> None:
    """Measure, print a table and, with `--json`, one JSON object last."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_push", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="of each client in each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    found = asyncio.run(compare(given.messages, given.rounds))
    print_table(
        ("provider", "messages/s", "CPU ms", "bare messages/s", "bare CPU ms", "to bare", "to the best"),
        [
            (
                name,
                one["ours"]["per_second"],
                one["ours"]["cpu_ms"],
                one["bare"]["per_second"],
                one["bare"]["cpu_ms"],
                one["to_bare"],
                one["to_best"],
            )
            for name, one in found.items()
        ],
    )
    people().print(f"medians of {given.rounds} rounds of {given.messages} messages, {IN_FLIGHT} in flight")
    if given.json:
        reached = all(one["goal_reached"] for one in found.values())
        print(json.dumps({"messages": given.messages, "rounds": given.rounds, "providers": found, "reached": reached}))


if __name__ == "__main__":
    main()
