"""The fifteen example segments check, save and preview by the command line, on tables worked out by hand."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from scripts.cli import run
from tests.condition_tables import EXAMPLES
from workers.opening import open_stores
from workers.settings import Settings

PARIS = ZoneInfo("Europe/Paris")
NAMES = [document["segment"] for document in yaml.load_all(EXAMPLES.read_text(), yaml.BaseLoader)]

USERS_SCHEMA = """\
age: integer
last_seen: instant
trial_ends: date
birth_date: date
interests: list
current_price: price
wished_price: price
zip: string
"""
DEVICES_SCHEMA = "app_version: version\n"
EVENTS_SCHEMA = "amount: price\n"

EXPECTED = {
    "s01-paying": "anna ben fay gus hal ida jon",
    # ben churned; fay has one purchase that counts: the others are a gift card and in dollars.
    "s02-loyal": "anna gus hal ida jon",
    # cara's 500 EUR are 91 days old; eve's 100 are just enough.
    "s03-spent-100": "anna eve",
    # ben's iPhone has 1.10, his other device 1.2: no device is both.
    "s04-ios-old-app": "anna dave",
    "s05-norway": "ben cara dave gus jon",
    "s06-trial-ends": "cara",
    "s07-birthday": "anna",
    "s08-never-bought": "dave",
    "s09-no-plan-or-free": "cara dave",
    # 17 and 65 are out, 18 and 64 are in, and fay's age is not known.
    "s10-adult": "anna cara dave gus jon",
    "s11-interests": "anna cara",
    "s12-team": "anna ben",
    # ben's prices are equal, cara's of two currencies, dave wishes for none.
    "s13-price-below-wish": "anna",
    "s14-beta-devices": "ben jon",
    # ida is neither of the North nor reads French, jon tests the beta, hal's zip is 75000.
    "s15-nested": "anna gus",
}
"""Who is in each segment, worked out by hand."""


def write(path: Path, heading: str, rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading.split(","), *rows])
    return path


def quiet_moment() -> datetime:
    """The present, but for the two minutes before midnight: what is written for today is read on the same day."""
    while True:
        now = datetime.now(UTC)
        soon = now + timedelta(minutes=2)
        if soon.date() == now.date() and soon.astimezone(PARIS).date() == now.astimezone(PARIS).date():
            return now
        time.sleep(1)


def write_tables(folder: Path, now: datetime) -> None:
    """Write the three tables and the two lists of ids, counted from now."""

    def ago(days: float) -> str:
        return (now - timedelta(days=days)).isoformat()

    def ahead(days: int) -> str:
        return (now.date() + timedelta(days=days)).isoformat()

    today = now.astimezone(PARIS).date()
    born = date(1992, today.month, today.day).isoformat()
    other = (date(1992, today.month, today.day) + timedelta(days=40)).isoformat()
    write(
        folder / "users.csv",
        "user_id,plan,age,country,last_seen,trial_ends,birth_date,interests,Favourite team,"
        "current_price,wished_price,zip",
        [
            ("anna", "paid", 30, "FR", ago(1), "", born, '["running", "yoga"]', "OM", "10 EUR", "15 EUR", "07500"),
            ("ben", "pro", 17, "NO", ago(29), ahead(4), other, "", "om", "20 EUR", "20 EUR", "75001"),
            ("cara", "free", 18, "SE", ago(31), ahead(3), "", '["trail"]', "Lyon", "5 USD", "10 EUR", "07512"),
            ("dave", "", 64, "DK", "", ahead(2), other, '["chess"]', "", "5 EUR", "", "07501"),
            ("eve", "gold", 65, "", ago(3), "", "", "", "", "", "5 EUR", "99"),
            ("fay", "paid", "", "FR", ago(2), "", "", "", "", "", "", "07590"),
            ("gus", "pro", 40, "DK", ago(1), "", "", "", "", "", "", "07501"),
            ("hal", "paid", 65, "FR", ago(1), "", "", "", "", "", "", "75000"),
            ("ida", "pro", 70, "FR", ago(1), "", "", "", "", "", "", "07500"),
            ("jon", "paid", 20, "SE", ago(1), "", "", "", "", "", "", "07519"),
        ],
    )
    write(
        folder / "devices.csv",
        "device_id,user_id,platform,language,app_version",
        [
            ("a1", "anna", "ios", "fr", "1.9"),
            ("b1", "ben", "ios", "en", "1.10"),
            ("b2", "ben", "android", "fr-CA", "1.2"),
            ("d1", "dave", "ios", "fr", "1.2.3"),
            ("e1", "eve", "web", "", ""),
            ("f1", "fay", "android", "en", "1.1"),
            ("g1", "gus", "ios", "en", "2.0"),
            ("h1", "hal", "android", "fr", "1.0"),
            ("j1", "jon", "android", "fr", "1.0"),
        ],
    )
    bought = [
        ("anna", 10, "25 EUR", "shoes"), ("anna", 20, "20 EUR", "food"), ("anna", 30, "60 EUR", "gift-card"),
        ("ben", 5, "20 EUR", "food"), ("ben", 89, "20 EUR", "books"),
        ("cara", 91, "500 EUR", "food"),
        ("eve", 1, "100 EUR", ""),
        ("fay", 3, "30 EUR", "gift-card"), ("fay", 4, "30 EUR", "shoes"), ("fay", 5, "30 USD", "shoes"),
        ("gus", 1, "45 EUR", "toys"), ("gus", 2, "45 EUR", "toys"),
        ("hal", 1, "20 EUR", "toys"), ("hal", 2, "20 EUR", "toys"),
        ("ida", 1, "20 EUR", "toys"), ("ida", 2, "20 EUR", "toys"),
        ("jon", 1, "20 EUR", "toys"), ("jon", 2, "20 EUR", "toys"),
    ]  # fmt: skip
    left = [("cara", 10), ("gus", 366)]
    write(
        folder / "events.csv",
        "user_id,event,at,amount,category",
        [(user, "purchase", ago(days), amount, category) for user, days, amount, category in bought]
        + [(user, "unsubscribe", ago(days), "", "") for user, days in left],
    )
    write(folder / "beta.csv", "hwid,since", [("j1", "2025"), ("b2", "2025"), ("j1", "2026"), ("stranger", "2026")])
    write(folder / "churned.csv", "user_id", [("ben",), ("eve",)])


class Line:
    """The command line, in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        patch.setenv("JOURNEYS_HOME", str(folder / "home"))
        self.patch = patch
        self.folder = folder

    def __call__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
        self.patch.setattr(sys, "argv", ["journeys", *arguments, "--json"])
        capsys.readouterr()
        status = run()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, answer


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    write_tables(tmp_path, quiet_moment())
    shutil.copy(EXAMPLES, tmp_path / "segments.yaml")
    for table, schema in (("users", USERS_SCHEMA), ("devices", DEVICES_SCHEMA), ("events", EVENTS_SCHEMA)):
        (tmp_path / f"{table}.yaml").write_text(schema)
    with pytest.MonkeyPatch.context() as patch:
        yield Line(patch, tmp_path)


def test_fifteen_segments(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """All fifteen check, save and preview, and each holds exactly the users worked out by hand."""
    folder = line.folder
    for table in ("users", "devices", "events"):
        status, answer = line(
            capsys, "import", table, str(folder / f"{table}.csv"), "--schema", str(folder / f"{table}.yaml")
        )
        assert (status, answer.get("rejected")) == (0, 0), answer

    documents = str(folder / "segments.yaml")
    status, answer = line(capsys, "check", documents)
    assert (status, [error["message"].split(";")[0] for error in answer["errors"]]) == (
        2,
        ["unknown segment 'churned'"],
    )
    assert answer["errors"][0]["line"] == 19

    status, answer = line(capsys, "segment", "import", "churned", str(folder / "churned.csv"))
    assert (status, answer["users"]) == (0, 2)
    status, answer = line(capsys, "check", documents)
    assert (status, answer["errors"], answer["warnings"]) == (0, [], [])
    status, answer = line(capsys, "save", documents)
    assert status == 0
    imported = [one["name"] for one in answer["saved"] if one["name"] not in NAMES]
    assert imported == ["s14-beta-devices-beta"]
    assert [one["name"] for one in answer["saved"] if one["name"] in NAMES] == NAMES

    assert list(EXPECTED) == NAMES
    for name, members in EXPECTED.items():
        status, answer = line(capsys, "segment", "preview", name, "--ids")
        assert (status, name, answer["user_ids"]) == (0, name, members.split())
        assert answer["users"] == len(members.split())

    status, answer = line(capsys, "segment", "preview", "s01-paying")
    assert (answer["users"], answer["devices"], answer["reachable"]) == (7, 7, 6)
    status, answer = line(capsys, "segment", "list")
    assert {one["segment"]: one["users"] for one in answer["segments"]} == {
        **{name: len(members.split()) for name, members in EXPECTED.items()},
        "churned": 2,
        "s14-beta-devices-beta": 2,
    }
    status, answer = line(capsys, "save", documents)
    assert (status, {one["changed"] for one in answer["saved"]}) == (0, {False})


def test_explicit_schema_is_kept(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """A column has the type that the schema says, not a guessed one: a zip keeps its zero, 1.10 is a version."""
    folder = line.folder
    for table in ("users", "devices"):
        line(capsys, "import", table, str(folder / f"{table}.csv"), "--schema", str(folder / f"{table}.yaml"))
    with open_stores(Settings(home=folder / "home")) as stores:
        kinds = {**stores.tables.schema("users"), **stores.tables.schema("devices")}
        zips = stores.tables.collect(stores.tables.scan("users").select("zip")).to_series().to_list()
    assert (kinds["zip"], kinds["app_version"], kinds["interests"]) == ("string", "version", "list")
    assert "07500" in zips


def test_names_of_fields_are_no_keys(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """What Python code calls `is_`, `in_` and `not_` is not known in a document, which spells it otherwise."""
    line(capsys, "import", "users", str(line.folder / "users.csv"))
    path = line.folder / "typos.yaml"
    path.write_text(
        "segment: typos\nmatch:\n  all:\n"
        "    - {attribute: plan, is_: paid}\n    - {attribute: plan, in_: [paid]}\n    - {not_: {everyone: true}}\n"
    )
    status, answer = line(capsys, "check", str(path))
    assert (status, [(error["line"], error["path"]) for error in answer["errors"]]) == (
        2,
        [(4, "match.all[0].is_"), (5, "match.all[1].in_"), (6, "match.all[2]")],
    )
    for error, meant in zip(answer["errors"], ("`is`", "`in`", "`not`"), strict=True):
        assert f"did you mean {meant}" in error["message"]
