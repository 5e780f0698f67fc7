"""Tracing: a real worker sends the spans of a journey to a collector, and says what is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.house import House
from tests.test_worker_process import ROOT, environment, run, worker


class Collector:
    """What a collector on loopback was sent (OpenTelemetry's specification "OTLP/HTTP")."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            assert any(one.value.string_value == "journeys-worker" for one in resource.resource.attributes)
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found, application = Collector(), web.Application()
    application.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def test_a_journey_is_traced(house: House, collector: Collector) -> None:
    """A collector gets spans of runs, activities and pushes, each under what asked for it, the last at the end."""
    async with worker(house, JOURNEYS_TRACING=collector.url) as served:
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        await asyncio.wait_for(house.engine.result(report, client=client), 30)
        status, _ = await served.told_to_stop()
    assert status == 0, served.said
    names = {span.name for span in collector.spans}
    assert {"StartWorkflow:UserJourney", "RunWorkflow:UserJourney", "StartActivity:push", "RunActivity:push"} <= names
    assert "RunActivity:condition-split" in names
    pushes = [span for span in collector.spans if span.name == "RunActivity:push"]
    assert len(pushes) == 3
    started = {span.span_id: span for span in collector.spans}
    for push in pushes:
        assert started[push.parent_span_id].name == "StartActivity:push"
        assert started[push.parent_span_id].trace_id == push.trace_id


async def test_a_collector_that_is_gone_harms_nothing(house: House) -> None:
    """Spans that nobody takes are dropped: the journey ends as it would."""
    async with worker(house, JOURNEYS_TRACING="http://127.0.0.1:9") as served:
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        stats = await asyncio.wait_for(house.engine.result(report, client=client), 30)
        status, _ = await served.told_to_stop()
    assert (stats.exited, status) == ({"end": 4}, 0)


def test_without_the_packages_it_is_refused(tmp_path: Path) -> None:
    """Where the optional packages are missing, a worker ends with 2 and says what to install."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.exporter'] = None\n")
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        cwd=ROOT,
        env=environment(tmp_path / "home", JOURNEYS_TRACING="http://127.0.0.1:9", PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2, ended.stderr
    assert "pip install 'targeted-push[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:4318", "grpc://127.0.0.1:4317"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    """What is no http address is refused, with the setting's name."""
    ended = run(tmp_path / "home", JOURNEYS_TRACING=address)
    assert ended.returncode == 2
    assert f"JOURNEYS_TRACING: {address!r}" in ended.stderr
