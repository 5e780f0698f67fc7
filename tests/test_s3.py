"""The audience tables on S3: a real protocol peer on loopback, which knows conditional puts as S3 does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest

from activities.segments.imported import import_segment, read_members
from activities.stores import Stores
from activities.tables.imports import ImportedTable, ImportReport, import_table
from activities.tables.tidying import tidy
from workers.opening import open_stores
from workers.settings import load_settings
from workflows.conditions import AttributeTest, SegmentRef
from workflows.errors import NotFoundError, StoreUnavailable

NOW = datetime(2026, 3, 1, tzinfo=UTC)
START_SECONDS = 30.0
ROOT = Path(__file__).parents[1]

SERVER = """
from moto.server import ThreadedMotoServer
import threading
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""

IMPORT = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from activities.tables.imports import import_table
from workers.opening import open_stores
from workers.settings import load_settings
file, start = sys.argv[1:]
with open_stores(load_settings()) as stores:
    while time.time() < float(start):
        pass
    import_table(stores.tables, "devices", Path(file), now=datetime.now(UTC))
"""


def ask(endpoint: str, method: str, path: str) -> None:
    """Have the server do something."""
    connection = HTTPConnection(endpoint.removeprefix("http://"), timeout=START_SECONDS)
    connection.request(method, path)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server with a bucket."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        ask(f"http://127.0.0.1:{port}", "PUT", "/bucket")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def environment(endpoint: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What an operator sets to keep the tables on S3."""
    options = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    return {
        "JOURNEYS_HOME": str(tmp_path / "home"),
        "JOURNEYS_TABLES": f"s3://bucket/{request.node.name}",
        "JOURNEYS_TABLE_OPTIONS": json.dumps(options),
    }


@pytest.fixture
def stores(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with open_stores(load_settings()) as found:
        yield found


def load(stores: Stores, folder: Path, table: ImportedTable, text: str) -> ImportReport:
    path = folder / f"{table}.csv"
    path.write_text(text)
    return import_table(stores.tables, table, path, now=NOW)


def test_import_merge_pin_and_evaluate(stores: Stores, tmp_path: Path) -> None:
    """Files are imported and merged on S3, each version stays readable, segments are evaluated, compaction works."""
    assert load(stores, tmp_path, "users", "user_id,plan\na,pro\nb,free\n").inserted == 2
    assert load(stores, tmp_path, "users", "user_id,plan\nb,pro\nc,\n").model_dump(include={"inserted", "updated"}) == {
        "inserted": 1,
        "updated": 1,
    }
    assert load(stores, tmp_path, "users", "user_id,plan\nb,pro\n").unchanged == 1
    assert stores.tables.versions() == {"users": 1, "devices": -1, "events": -1, "members": -1}
    assert stores.tables.collect(stores.tables.scan("users", 0).sort("user_id")).rows() == [("a", "pro"), ("b", "free")]

    (tmp_path / "vip.csv").write_text("user_id\nb\nnobody\n")
    vip = read_members(
        stores.tables, "vip", tmp_path / "vip.csv", column=None, identifier="user_id", rejects_dir=tmp_path
    )
    assert import_segment(stores.tables, stores.catalogue, vip, NOW).version == 1
    found = stores.segments.evaluate(SegmentRef(segment="vip"), NOW)
    assert found.users["user_id"].to_list() == ["b"]
    assert found.tables == {"users": 1, "devices": -1, "events": -1, "members": 0}

    load(stores, tmp_path, "users", "user_id,plan\nd,pro\n")
    tidied = tidy(stores.tables, "users", retain=timedelta(0), needed=[2], now=datetime.now(UTC), dry_run=False)
    assert tidied is not None
    assert (tidied.files_after, tidied.vacuumed) == (1, 0)
    again = stores.segments.evaluate(SegmentRef(segment="vip"), NOW, versions=found.tables)
    assert again.users.equals(found.users)


def test_a_vacuumed_version_says_so(stores: Stores, tmp_path: Path) -> None:
    """On S3 too, reading a version whose files were vacuumed is refused with that explanation, and never retried."""
    for plan in ("pro", "free"):
        load(stores, tmp_path, "users", f"user_id,plan\na,{plan}\n")
    tidied = tidy(stores.tables, "users", retain=timedelta(0), needed=[], now=datetime.now(UTC), dry_run=False)
    assert tidied is not None
    assert tidied.vacuumed == 1
    with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed"):
        stores.tables.row_count("users", 0)
    assert stores.tables.row_count("users") == 1


def test_columns_are_kept_from_s3(stores: Stores, tmp_path: Path) -> None:
    """Columns read from S3 answer for their version when the bucket has it no more; one not read by then is refused."""
    paying = AttributeTest.model_validate({"attribute": "plan", "is": "pro"})
    load(stores, tmp_path, "users", "user_id,plan,city\na,pro,Oslo\nb,free,\n")
    first = stores.segments.evaluate(paying, NOW)
    load(stores, tmp_path, "users", "user_id,plan\nb,pro\n")
    for _ in range(3):
        assert stores.segments.evaluate(paying, NOW).users["user_id"].to_list() == ["a", "b"]
        assert stores.segments.evaluate(paying, NOW, versions=first.tables).users.equals(first.users)
    assert tidy(stores.tables, "users", retain=timedelta(0), needed=[], now=datetime.now(UTC), dry_run=False)
    assert stores.segments.evaluate(paying, NOW, versions=first.tables).users["user_id"].to_list() == ["a"]
    there = AttributeTest.model_validate({"attribute": "city", "is": "Oslo"})
    for _ in range(2):
        with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed"):
            stores.segments.evaluate(there, NOW, versions=first.tables)


def test_two_imports_at_once_both_land(stores: Stores, tmp_path: Path) -> None:
    """Two processes that create and write the same tables on S3 leave each device and each user once."""
    for name, low in (("one.csv", 0), ("two.csv", 50)):
        lines = (f"d{row},u{row // 2},ios\n" for row in range(low, low + 100))
        (tmp_path / name).write_text("device_id,user_id,platform\n" + "".join(lines))
    start = str(time.time() + 2)
    both = [
        subprocess.Popen([sys.executable, "-c", IMPORT, str(tmp_path / name), start], cwd=ROOT)
        for name in ("one.csv", "two.csv")
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    devices = stores.tables.collect(stores.tables.scan("devices"))
    users = stores.tables.collect(stores.tables.scan("users"))
    assert sorted(devices["device_id"]) == sorted(f"d{row}" for row in range(150))
    assert sorted(users["user_id"]) == sorted(f"u{row}" for row in range(75))
    assert stores.tables.version("devices") == 1


def test_a_bucket_that_is_emptied_is_an_outage(stores: Stores, tmp_path: Path, endpoint: str) -> None:
    """Tables that vanish from S3 are a store that cannot be reached: nothing is refused for good, nobody is nobody."""
    for plan in ("pro", "free"):
        load(stores, tmp_path, "users", f"user_id,plan\na,{plan}\n")
    scans = [stores.tables.scan("users", version) for version in (0, 1)]
    ask(endpoint, "POST", "/moto-api/reset")
    ask(endpoint, "PUT", "/bucket")
    for scan in scans:
        with pytest.raises(StoreUnavailable, match="no table users at s3:"):
            stores.tables.collect(scan)
    with open_stores(load_settings()) as newcomer, pytest.raises(StoreUnavailable, match="no table users at s3:"):
        newcomer.tables.require("users")
