"""Segments by the command line: imported, saved, counted, and explained leaf by leaf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands
from tests.house import DEVICES, USERS, VIP


@pytest.fixture
def here(tmp_path: Path) -> Commands:
    """A folder with users, devices and a list of ids."""
    found = Commands(tmp_path)
    found.write("users.csv", USERS)
    found.write("devices.csv", DEVICES)
    found.write("vip.csv", VIP)
    assert found("import", "users", "users.csv").status == 0
    assert found("import", "devices", "devices.csv").status == 0
    return found


def test_an_import_accounts_for_every_row(here: Commands) -> None:
    """Rows are users + unknown + duplicates + empty + rejected, each counted as it is."""
    here.write("ids.csv", "client,since\nu1,2020\nu2,2021\nu1,2022\n,2023\nnobody,2024\nu6,2020,extra\nu3,2020\n")
    report = here("segment", "import", "vip", "ids.csv", "--column", "client", "--json").json
    counted = {name: report[name] for name in ("rows", "users", "unknown", "duplicates", "empty", "rejected")}
    assert counted == {"rows": 7, "users": 3, "unknown": 1, "duplicates": 1, "empty": 1, "rejected": 1}
    assert report["rows"] == sum(counted.values()) - report["rows"]
    rejects = Path(report["rejects_file"]).read_text()
    assert "nobody" in rejects
    assert "u6" in rejects


def test_a_list_of_devices_means_their_users(here: Commands) -> None:
    """With --identifier device_id the ids are devices, and the members the users who own them."""
    here.write("ids.csv", "device_id\nd1\nd1b\nd4\nd9\n")
    report = here("segment", "import", "phones", "ids.csv", "--identifier", "device_id", "--json").json
    assert (report["users"], report["unknown"]) == (2, 1)
    assert here("segment", "preview", "phones", "--ids", "--json").json["user_ids"] == ["u1", "u4"]


def test_the_same_list_is_no_new_version(here: Commands) -> None:
    """Importing the same ids again changes nothing; other ids are version 2."""
    assert here("segment", "import", "vip", "vip.csv", "--json").json["version"] == 1
    before = here.kept()
    assert here("segment", "import", "vip", "vip.csv", "--json").json["version"] == 1
    assert "unchanged" in here("segment", "import", "vip", "vip.csv").out
    assert here.kept() == before
    here.write("vip.csv", VIP + "u3\n")
    assert here("segment", "import", "vip", "vip.csv", "--json").json["version"] == 2


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("vip", "", [], "empty"),
        ("vip", "client,since\nu1,2020\n", [], "client"),
        ("vip", "client\nu1\n", ["--column", "klient"], "klient"),
        ("vip", "client\nnobody\nnowhere\n", [], "nobody"),
        ("vip", b"\xff\xfe\x00\xd8", [], "ids.csv"),
        ("vip", None, [], "ids.csv"),
        ("My List", "client\nu1\n", [], "My List"),
    ],
)
def test_a_list_that_cannot_be_imported_changes_nothing(
    here: Commands, name: str, content: str | bytes | None, options: list[str], said: str
) -> None:
    """An empty file, an unknown column, ids that nobody has, a wrong name: refused with what is wrong."""
    if content is not None:
        here.write("ids.csv", content)
    before = here.kept()
    found = here("segment", "import", name, "ids.csv", *options, "--json")
    assert found.status == 2
    assert any(said in fault["message"] + (fault["hint"] or "") for fault in found.errors), found
    assert here.kept() == before


@pytest.mark.parametrize("form", ["bare", "document"])
def test_a_condition_is_saved_as_a_segment(here: Commands, form: str) -> None:
    """`segment save` takes a bare condition or a whole document, from a file or from standard input."""
    condition = "{attribute: age, at_least: 40}\n"
    text = condition if form == "bare" else f"segment: old\nmatch: {condition}"
    here.write("old.yaml", text)
    (saved,) = here("segment", "save", "old", "old.yaml", "--json").json["saved"]
    assert (saved["name"], saved["version"], saved["changed"]) == ("old", 1, True)
    (again,) = here("segment", "save", "old", "-", "--json", stdin=text).json["saved"]
    assert (again["version"], again["changed"]) == (1, False)
    assert here("segment", "preview", "old", "--ids", "--json").json["user_ids"] == ["u2", "u5"]
    if form == "document":
        other = here("segment", "save", "other", "old.yaml", "--json")
        assert other.status == 2
        assert "old" in other.errors[0]["message"]


def test_a_preview_counts_users_devices_and_reachable_users(here: Commands) -> None:
    """Three numbers stand side by side: users, their devices, and users whom a push can reach."""
    found = here("segment", "preview", "-", "--json", stdin="{attribute: plan, in: [paid, pro]}").json
    assert (found["users"], found["devices"], found["reachable"]) == (4, 5, 3)
    assert set(found["tables"]) == {"users", "devices", "events", "members"}
    here.write("all.json", '{"everyone": "true"}')
    assert here("segment", "preview", "all.json", "--json").json["users"] == 6


def test_a_preview_of_a_file_in_place_imports_nothing(here: Commands) -> None:
    """A condition with `file` is counted, and nothing is kept of it."""
    before = here.kept()
    found = here("segment", "preview", "-", "--ids", "--json", stdin="{file: vip.csv, column: client}").json
    assert found["user_ids"] == ["u1", "u2", "u6"]
    assert here.kept() == before


def test_ids_are_listed_one_a_line(here: Commands) -> None:
    """For people `--ids` lists the ids alone on standard output, so that other programs can read them."""
    said = here("segment", "preview", "-", "--ids", stdin="{attribute: plan, is: paid}")
    assert said.out.splitlines() == ["u1", "u4"]
    assert "users 2" in said.err


def test_no_ids_are_no_lines(here: Commands) -> None:
    """For people `--ids` of a segment of nobody prints nothing on standard output: an empty line would be an id."""
    said = here("segment", "preview", "-", "--ids", stdin="{attribute: plan, is: gold}")
    assert (said.status, said.out) == (0, "")
    assert "users 0" in said.err


def test_a_typo_in_a_condition_is_told_as_one(here: Commands) -> None:
    """A bare condition with a wrong key is told with the key that was meant, and its place."""
    said = here("segment", "preview", "-", "--json", stdin="{atribute: plan, is: paid}")
    assert said.status == 2
    fault = said.errors[0]
    assert "`attribute`" in fault["message"] + (fault["hint"] or "")
    assert (fault["file"], fault["line"]) == ("standard input", 1)


def test_a_segment_of_nobody_is_told_where_its_parts_are_shown(here: Commands) -> None:
    """The warning about a segment of nobody names the command that shows each part, and that command does."""
    here.write(
        "gold.yaml", "segment: gold\nmatch: {all: [{attribute: plan, is: gold}, {attribute: age, at_least: 18}]}\n"
    )
    (warning,) = here("segment", "save", "gold", "gold.yaml", "--json").json["warnings"]
    assert warning["code"] == "segment-of-nobody"
    assert warning["hint"].endswith("journeys segment explain NAME|FILE USER")
    parts = here("segment", "explain", "gold", "u1", "--json").json["tree"]["children"]
    assert [part["text"] for part in parts] == ["plan is gold", "age at least 18"]


NO_CONDITION = "a condition is a mapping, such as `{attribute: plan, is: paid}`, not "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("all: [{attribute: plan, is: &a paid}]\nall: []\n", [("anchor", 1, 29), ("duplicate-key", 2, 1)]),
        ("attribute: plan\nis: !!str paid\n", [("tag", 2, 5)]),
        ('{"attribute": "plan", "is": null, "in": [NaN]}', [("null", 1, 29), ("wrong-value", 1, 42)]),
        ('{"attribute": "plan", "is": "\\u0000"}', [("wrong-character", 1, 29)]),
        ("{attribute: plan, is: paid]", [("syntax", 1, 27)]),
        ("", [(f"{NO_CONDITION}nothing", None, None)]),
        ("''", [(f"{NO_CONDITION}nothing", None, None)]),
        ("[]", [(f"{NO_CONDITION}a list", 1, 1)]),
        ("\npaid\n", [(f"{NO_CONDITION}'paid'", 2, 1)]),
        ("{}", [("subject", 1, 1)]),
    ],
)
def test_a_bare_condition_has_its_own_faults_alone(
    here: Commands, text: str, told: list[tuple[str, int | None, int | None]]
) -> None:
    """What cannot be read as a condition is told for what it is, and nothing of a document that nobody meant."""
    name = here.write("c.json" if text.startswith('{"') else "c.yaml", text).name
    words = [("preview", name), ("save", "new", name)]
    for command in words if name == "c.json" else (*words, ("preview", "-"), ("save", "new", "-")):
        found = here("segment", *command, "--json", stdin=text).errors
        said = [fault["message"] if fault["code"] == "condition" else fault["code"] for fault in found]
        assert [(what, fault["line"], fault["column"]) for what, fault in zip(said, found, strict=True)] == told
        assert {fault["file"] for fault in found} == {"standard input" if command[-1] == "-" else name}
        assert found[0]["code"] != "condition" or "`any_device`" in found[0]["hint"]


@pytest.mark.parametrize("name", ["-", "c.yaml"])
def test_what_is_not_utf_8_is_told_as_that(here: Commands, name: str) -> None:
    """Of standard input as of a file the byte that is not UTF-8 is named with its line; a byte order mark is none."""
    latin = "# caf\xe9\n{attribute: plan, is: paid}\n"
    here.write("c.yaml", latin.encode("latin-1"))
    (fault,) = here("segment", "preview", name, "--json", stdin=latin.encode("latin-1")).errors
    assert (fault["code"], fault["message"]) == ("not-utf-8", "not UTF-8: the byte 0xe9 on line 1")
    assert (fault["file"], fault["line"]) == ("standard input" if name == "-" else name, 1)
    here.write("c.yaml", latin.encode("utf-8-sig"))
    assert here("segment", "preview", name, "--json", stdin=latin.encode("utf-8-sig")).json["users"] == 2


def test_one_condition_is_taken_at_a_time(here: Commands) -> None:
    """Of two conditions in one text none is taken for the one that was meant."""
    (fault,) = here("segment", "preview", "-", "--json", stdin="everyone: true\n---\neveryone: true\n").errors
    assert (fault["code"], "holds 2 conditions" in fault["message"]) == ("one-segment", True)


def leaves(tree: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    """The leaves of an explanation: text to value and truth."""
    if not tree["children"]:
        return {tree["text"]: (tree["value"], tree["true"])}
    return {text: found for child in tree["children"] for text, found in leaves(child).items()}


def test_an_explanation_agrees_with_the_evaluation(here: Commands) -> None:
    """For every user `explain` says `member` as `preview` lists, and each leaf shows the value that was found."""
    here.write(
        "s.yaml",
        "segment: s\nmatch: {all: [{attribute: plan, in: [paid, pro]}, {not: {attribute: age, less_than: 18}}]}\n",
    )
    here("save", "s.yaml")
    members = here("segment", "preview", "s", "--ids", "--json").json["user_ids"]
    assert members == ["u1", "u2", "u6"]
    for user in ("u1", "u2", "u3", "u4", "u5", "u6"):
        found = here("segment", "explain", "s", user, "--json").json
        assert found["member"] is (user in members)
        assert found["tree"]["true"] is found["member"]
    values = leaves(here("segment", "explain", "s", "u4", "--json").json["tree"])
    assert ("paid", True) in values.values()
    assert any(value == 17 for value, _ in values.values())
    assert None in [value for value, _ in leaves(here("segment", "explain", "s", "u5", "--json").json["tree"]).values()]
    people = here("segment", "explain", "s", "u4").out
    assert "u4 is not in s" in people
    assert "17" in people


def test_an_explanation_goes_into_devices_and_events(here: Commands) -> None:
    """Which part failed is seen on each device and event, in JSON under `children` and for people a line each."""
    here.write("events.csv", "event_id,user_id,event,at,amount\ne1,u1,buy,2026-01-05T10:00:00Z,20.00 EUR\n")
    assert here("import", "events", "events.csv").status == 0
    text = """
    any:
      - any_device: {all: [{attribute: platform, is: ios}, {attribute: language, is: xx}]}
      - {event: buy, where: {property: amount, more_than: 20 EUR}}
    """
    device, event = here("segment", "explain", "-", "u1", "--json", stdin=text).json["tree"]["children"]
    assert (device["node"], device["true"], event["node"], event["true"]) == ("leaf", False, "leaf", False)
    assert {part["text"] for row in device["children"] for part in row["children"]} == {
        "platform is ios",
        "language is xx",
    }
    assert event["children"][1]["children"][0]["value"] == "20.00 EUR"
    said = here("segment", "explain", "-", "u1", stdin=text).out.splitlines()
    assert "false     buy at 2026-01-05T10:00:00Z" in said
    assert "false       amount more than 20 EUR   (is 20.00 EUR)" in said
    assert "false     device d1" in said


@pytest.mark.parametrize(("rates", "shown"), [("1e308", "inf"), ("-1e308", "-inf")])
def test_a_sum_beyond_floats_is_explained_in_valid_json(here: Commands, rates: str, shown: str) -> None:
    """`explain --json` is JSON for any reader: a sum of numbers that left their range is shown as text."""
    rows = "".join(f"e{place},u1,buy,2026-01-05T10:00:00Z,{rates}\n" for place in range(2))
    here.write("events.csv", f"event_id,user_id,event,at,rate\n{rows}")
    assert here("import", "events", "events.csv").status == 0
    text = "{any: [{event: buy, sum: {property: rate, at_least: 1}}, {event: buy, sum: {property: rate, at_most: 1}}]}"
    said = here("segment", "explain", "-", "u1", "--json", stdin=text)
    tree = json.loads(said.out, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))["tree"]
    assert [child["value"] for child in tree["children"]] == [shown, shown]
    assert f"(is {shown})" in here("segment", "explain", "-", "u1", stdin=text).out
