"""The command line for programs: with --json, one object of designed keys; what `new` writes works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import Commands, one_object

IMPORTED = {
    *("table", "version", "rows", "inserted", "updated", "unchanged", "rejected"),
    *("users_added", "rejects_file", "warnings"),
}
LISTED = {
    *("segment", "version", "rows", "users", "unknown", "duplicates", "empty", "rejected", "rejects_file"),
    *("size", "warnings"),
}
STATS = {"journey", "version", "state", "audience", "entered", "refused", "inside", "exited", "elements"}


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("import users users.csv", IMPORTED),
        ("tables", {"tables"}),
        ("check all.yaml", {"ok", "files", "errors", "warnings"}),
        ("save all.yaml", {"saved"}),
        ("list", {"journeys"}),
        ("show hello", {"kind", "name", "version", "digest", "saved_at", "definition"}),
        ("versions hello", {"journey", "versions"}),
        ("plan hello", {"audience", "refused", "elements", "pushes", "as_of", "tables"}),
        ("stats hello", STATS),
        ("explain hello u1", {"runs", "refused"}),
        ("pushes", {"pushes"}),
        ("pushes hello --user u1 --outcome accepted", {"pushes"}),
        ("schema journey", {"properties"}),
        ("schema segment", {"properties"}),
        ("settings", {"settings"}),
        ("segment show grown", {"kind", "name", "version", "digest", "saved_at", "definition"}),
        ("segment save grown all-grown.yaml", {"saved"}),
    ],
)  # fmt: skip
def test_with_json_a_command_prints_one_object(changed: Commands, words: str, keys: set[str]) -> None:
    """With --json a command prints exactly one object, of its designed keys, and nothing for people."""
    changed.write("all-grown.yaml", "segment: grown\nmatch: {attribute: age, at_least: 21}\n")
    said = changed(*words.split(), "--json")
    assert said.status == 0
    assert keys <= set(said.json)
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("list", {"segments"}),
        ("import vip2 vip.csv", LISTED),
        ("preview grown", {"users", "devices", "reachable", "as_of", "tables"}),
        ("preview grown --ids", {"users", "devices", "reachable", "as_of", "tables", "user_ids"}),
        ("explain grown u1", {"member", "tree"}),
    ],
)  # fmt: skip
def test_segment_commands_have_exactly_their_keys(changed: Commands, words: str, keys: set[str]) -> None:
    """`journeys segment` prints exactly its keys: the design's, and an import's warnings and size."""
    said = changed("segment", *words.split(), "--json")
    assert (said.status, set(said.json)) == (0, keys)


def test_the_parts_of_objects_have_their_keys(house_of_all: Commands) -> None:
    """Rows inside the objects have the designed keys, ids are strings, and absent is null."""
    tables = house_of_all("tables", "--json").json["tables"]
    assert [row["table"] for row in tables] == ["users", "devices", "events", "members"]
    assert all(set(row) == {"table", "version", "rows", "columns"} for row in tables)
    assert tables[0]["rows"] == 6
    assert tables[0]["columns"][0] == {"name": "user_id", "type": "string", "set": 6}
    assert {"name": "first_name", "type": "string", "set": 5} in tables[0]["columns"]
    plan = house_of_all("plan", "hello", "--json").json
    assert plan["audience"] == 4
    assert plan["elements"]["loyal"]["branches"] == {"users_in_segment": 3, "all_other_users": 1}
    assert plan["pushes"] == {"users": 2, "devices": 3, "by_provider": {"outbox": 3}}
    stats = house_of_all("stats", "hello", "--json").json
    assert set(stats["elements"]["promo"]) == {"arrived", "inside", "branches", "left", "users", "devices"}
    (row,) = house_of_all("list", "--json").json["journeys"]
    assert (row["journey"], row["state"], row["running_version"]) == ("hello", "draft", None)
    listed = house_of_all("segment", "list", "--json").json["segments"]
    assert {(one["segment"], one["kind"], one["users"], one["devices"], one["reachable"]) for one in listed} == {
        ("grown", "built", 5, 4, 2),
        ("paying", "built", 4, 5, 3),
        ("vip", "imported", 3, 4, 2),
    }
    assert all(set(one) == {"segment", "kind", "users", "devices", "reachable", "as_of"} for one in listed)
    assert house_of_all("segment", "preview", "vip", "--ids", "--json").json["user_ids"] == ["u1", "u2", "u6"]


def test_instants_of_json_are_utc(house_of_all: Commands) -> None:
    """Instants are RFC 3339 in UTC."""
    whole = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
    assert whole.fullmatch(house_of_all("plan", "hello", "--json").json["as_of"])
    assert whole.fullmatch(house_of_all("versions", "hello", "--json").json["versions"][0]["saved_at"])
    assert whole.fullmatch(house_of_all("show", "hello", "--json").json["saved_at"])


def test_new_makes_a_project_that_works_as_it_stands(tmp_path: Path) -> None:
    """What `new` writes can be imported, checked, saved and planned at once, and is never overwritten."""
    here = Commands(tmp_path)
    made = here("new", "first", "--json").json
    assert {Path(file).name for file in made["files"]} == {
        *("segments.yaml", "hello.yaml", "reminder.yaml", "users.csv", "devices.csv", "events.csv", "vip.csv")
    }
    first = Commands(tmp_path / "first")
    for table in ("users", "devices", "events"):
        assert first("import", table, f"{table}.csv", "--json").json["rejected"] == 0
    checked = first("check", ".", "--json").json
    assert (checked["ok"], checked["errors"], checked["files"]) == (
        True,
        [],
        ["hello.yaml", "reminder.yaml", "segments.yaml"],
    )
    # Its push skips users without a device by itself.
    assert [one["code"] for one in checked["warnings"]] == ["unguarded-push"]
    assert first("save", ".").status == 0
    plan = first("plan", "hello", "--json").json
    assert 0 < plan["pushes"]["users"] < plan["elements"]["thanks"]["arrived"] < plan["audience"] < 500
    one_object((tmp_path / "first/.journeys/schema/journey.json").read_text())
    before = (tmp_path / "first/hello.yaml").read_bytes()
    again = here("new", "first", "--json")
    assert (again.status, again.codes) == (2, ["files-exist"])
    assert (tmp_path / "first/hello.yaml").read_bytes() == before
