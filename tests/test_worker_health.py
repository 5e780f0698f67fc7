"""Health endpoints of a real worker process: alive, ready, draining, and one scrape of all metrics."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.house import House
from tests.tcp_proxy import TcpProxy
from tests.test_worker_process import Served, run, worker
from tests.worker_that_dies import until
from workers.health import KEPT_SECONDS
from workflows.contracts import USERS_QUEUE

HEALTH = {"JOURNEYS_HEALTH_ADDRESS": "127.0.0.1:0"}
DASHBOARD = Path(__file__).resolve().parents[1] / "workers/deploy/grafana-dashboard.json"
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")


def endpoints(served: Served) -> str:
    """Where a worker said that it answers."""
    found = re.search(r"health and metrics at (http://\S+)", served.said)
    assert found, served.said
    return found[1]


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def readiness(where: str) -> tuple[int, dict[str, Any]]:
    status, text = await get(f"{where}/readyz")
    return status, json.loads(text)


async def until_ready(where: str, wanted: int) -> dict[str, Any]:
    """Ask until the worker is ready, or is not, as wanted."""
    for _ in range(100):
        status, said = await readiness(where)
        if status == wanted:
            return said
        await asyncio.sleep(0.1)
    raise AssertionError(said)


async def test_a_worker_that_serves_is_ready(house: House) -> None:
    """A worker that serves answers 200 to both questions; before that it is alive and not ready."""
    async with worker(house, **HEALTH) as served:
        where = endpoints(served)
        assert await get(f"{where}/healthz") == (200, '{"state": "serving", "faults": {}}')
        assert await readiness(where) == (200, {"state": "serving", "faults": {}})
        assert (await get(f"{where}/else"))[0] == 404


async def test_a_worker_without_temporal_is_not_ready(house: House) -> None:
    """While Temporal is gone the worker is alive and not ready, says which part is missing, and heals by itself."""
    async with TcpProxy(house.address) as proxy, worker(replace(house, address=proxy.address), **HEALTH) as served:
        where = endpoints(served)
        await until_ready(where, 200)
        await proxy.__aexit__()
        said = await until_ready(where, 503)
        assert (said["state"], list(said["faults"])) == ("serving", ["temporal"])
        assert (await get(f"{where}/healthz"))[0] == 200
        await proxy.__aenter__()
        await until_ready(where, 200)


async def test_a_worker_without_its_ledger_is_not_ready(house: House) -> None:
    """While the ledger cannot be read the worker is not ready, with the ledger's own message."""
    async with worker(house, **HEALTH) as served:
        where = endpoints(served)
        with sqlite3.connect(house.settings.home / "ledger.db") as ledger:
            ledger.execute("ALTER TABLE journeys RENAME TO mislaid")
            ledger.commit()
            await asyncio.sleep(KEPT_SECONDS)
            said = await until_ready(where, 503)
            assert list(said["faults"]) == ["ledger"]
            assert "no such table: journeys" in said["faults"]["ledger"]
            ledger.execute("ALTER TABLE mislaid RENAME TO journeys")
            ledger.commit()
        await until_ready(where, 200)


async def test_without_an_address_nothing_listens(house: House) -> None:
    """Left out, the setting opens no port: several workers of one machine do not meet."""
    async with worker(house) as served:
        assert "health and metrics" not in served.said
        (process,) = [served.pid]
        listening = {
            line.split()[9]
            for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        }
        sockets = {
            link.readlink().name for link in Path(f"/proc/{process}/fd").iterdir() if "socket:" in str(link.readlink())
        }
        assert not {f"socket:[{inode}]" for inode in listening} & sockets


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    """A port that another program holds ends the worker with 2, naming setting and address."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = run(tmp_path / "home", JOURNEYS_HEALTH_ADDRESS=address)
    assert ended.returncode == 2, ended.stderr
    assert f"JOURNEYS_HEALTH_ADDRESS is {address!r}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:", ":9464", "localhost:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    """What is no host and port is refused, with the setting's name."""
    ended = run(tmp_path / "home", JOURNEYS_HEALTH_ADDRESS=address)
    assert ended.returncode == 2
    assert "JOURNEYS_HEALTH_ADDRESS" in ended.stderr
    assert repr(address) in ended.stderr


def samples(text: str) -> dict[str, dict[str, float]]:
    """The samples of a scrape: name to labels, as they are written, to value."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = SAMPLE.match(line)
            assert match, line
            found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
    return found


def named_by_the_dashboard() -> set[str]:
    """Every metric that a query of the dashboard names."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 10
    return {name for query in queries for name in re.findall(r"\b(?:journeys|temporal)_[a-z_]+", query)}


async def test_one_scrape_has_every_metric_of_the_dashboard(house: House) -> None:
    """After a journey, one scrape has our counts, right, and each metric that the dashboard asks for; and no user."""
    async with worker(house, **HEALTH) as served:
        where = endpoints(served)
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        await asyncio.wait_for(house.engine.result(report, client=client), 30)
        again = await house.engine.start("hello", client=client)
        await asyncio.wait_for(house.engine.result(again, client=client), 30)
        stray = await client.start_workflow(
            "UserJourney",
            {"journey": "nowhere", "user_id": "u1"},
            id="journey/nowhere/user/u1",
            task_queue=USERS_QUEUE,
        )
        with pytest.raises(Exception, match="Workflow execution failed"):
            await stray.result()
        # The SDK counts a run that failed when its task is answered, which its result may overtake.
        for _ in range(50):
            status, text = await get(f"{where}/metrics")
            found = samples(text)
            if named_by_the_dashboard() <= set(found):
                break
            await asyncio.sleep(0.1)
    assert status == 200
    assert found["journeys_users_entered_total"] == {'journey="hello"': 4}
    assert found["journeys_users_refused_total"] == {'journey="hello",reason="entered-before"': 4}
    assert found["journeys_outcomes_total"] == {
        'branch="users_in_segment",kind="condition-split"': 3,
        'branch="all_other_users",kind="condition-split"': 1,
        'branch="next",kind="push"': 3,
    }
    assert found["journeys_pushes_total"] == {'outcome="accepted",provider="outbox"': 3}
    assert found["journeys_evaluation_seconds_count"][""] >= 2
    assert found["journeys_membership_bytes"][""] > 0
    assert found["journeys_ledger_commit_requests_sum"][""] >= found["journeys_ledger_commit_requests_count"][""] > 4
    assert named_by_the_dashboard() - set(found) == set()
    assert re.findall(r"\bu[1-6]\b", text) == []


async def test_promtool_has_nothing_to_say_of_a_scrape(house: House, promtool: str) -> None:
    """Each metric is named, typed and explained as Prometheus asks, by its own checker."""
    async with worker(house, **HEALTH) as served:
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        await asyncio.wait_for(house.engine.result(report, client=client), 30)
        _, text = await get(f"{endpoints(served)}/metrics")
    assert "journeys_users_entered_total" in text
    assert await asyncio.to_thread(lint, promtool, text) == (0, "")
    assert (await asyncio.to_thread(lint, promtool, text.replace("journeys_users_entered_total", "_Entered")))[0] != 0


def lint(promtool: str, scrape: str) -> tuple[int, str]:
    """Have promtool check a scrape: its exit status and what it says."""
    done = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    """What we count is shown."""
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named_by_the_dashboard()}
    source = (DASHBOARD.parents[2] / "activities/meters.py").read_text()
    counted = set(re.findall(r'create_\w+\(\s*"(journeys_\w+)"', source))
    assert len(counted) == 11
    assert counted - shown == set()


async def test_a_draining_worker_is_not_ready(house: House) -> None:
    """From SIGTERM until its end a worker says that it drains, and is not ready."""
    async with worker(house, "--role", "users", **HEALTH) as served:
        where = endpoints(served)
        await until_ready(where, 200)
        served.tell_to_stop()
        seen = []
        while True:
            try:
                seen.append(await readiness(where))
            except aiohttp.ClientError:
                break
        await until(lambda: served.status is not None)
    assert seen[-1] == (503, {"state": "draining", "faults": {}}), seen[-3:]
    assert served.status == 0
