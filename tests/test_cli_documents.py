"""Documents by the command line: all or none, the same content the same version, and every fault in its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from activities.documents.reading import read_documents
from tests.commands import Commands, Said
from tests.house import DEVICES, SHARED, USERS, VIP

JOURNEY = """\
journey: hello
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: promo}
elements:
  promo: {kind: push, message: {title: Hi, body: There}, next: done}
  done: {kind: exit}
"""
PAYING = "segment: paying\nmatch: {attribute: plan, in: [paid, pro]}\n"


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


def versions(said: Said) -> dict[str, tuple[int, bool]]:
    """What a save did, by name."""
    assert said.status == 0, said
    return {one["name"]: (one["version"], one["changed"]) for one in said.json["saved"]}


# -------------------------------------------------------------------------------------------------------- saving


def test_several_files_are_saved_all_or_none(here: Commands) -> None:
    """One fault in one of several files: nothing of any of them is saved, imported lists included."""
    here.write("a.yaml", PAYING)
    here.write("b.yaml", "segment: vip\nmatch: {file: vip.csv, column: client}\n")
    here.write("c.yaml", JOURNEY.replace("next: promo", "next: prom"))
    before = here.kept()
    said = here("save", "a.yaml", "b.yaml", "c.yaml", "--json")
    assert said.status == 2
    assert {fault["file"] for fault in said.errors} == {"c.yaml"}
    assert here.kept() == before
    assert here("segment", "list", "--json").json == {"segments": []}
    here.write("c.yaml", JOURNEY)
    assert set(versions(here("save", "a.yaml", "b.yaml", "c.yaml", "--json"))) >= {"paying", "vip", "hello"}


def test_the_same_content_keeps_its_version(here: Commands) -> None:
    """A digest depends on the content alone: written in another way, a document keeps its version."""
    here.write("a.yaml", PAYING + "---\n" + JOURNEY)
    assert versions(here("save", "a.yaml", "--json")) == {"paying": (1, True), "hello": (1, True)}
    first = here("show", "hello", "--json").json
    before = here.kept()
    here.write(
        "b.yaml",
        """\
        # a comment, another order, other quotes
        elements:
          done: {kind: "exit"}
          promo:
            next: done
            message: {body: 'There', title: "Hi"}
            kind: push
        entries: {start: {next: promo, kind: audience-entry, audience: {segment: paying}}}
        journey: hello
        """,
    )
    assert versions(here("save", "b.yaml", "--json")) == {"hello": (1, False)}
    assert here.kept() == before
    assert here("show", "hello", "--json").json == first
    here.write("b.yaml", JOURNEY.replace("There", "Here"))
    assert versions(here("save", "b.yaml", "--json")) == {"hello": (2, True)}
    second = here("show", "hello", "--json").json
    assert second["digest"] != first["digest"]
    assert here("show", "hello@1", "--json").json == first
    assert here("show", "hello@2", "--json").json == second
    assert [one["version"] for one in here("versions", "hello", "--json").json["versions"]] == [2, 1]


def test_what_is_shown_can_be_saved_again(here: Commands) -> None:
    """The definition that `show` prints is the document: saved again it is unchanged."""
    here.write("a.yaml", PAYING + "---\n" + JOURNEY)
    here("save", "a.yaml")
    for words, name in ((("show", "hello"), "hello"), (("segment", "show", "paying"), "paying")):
        shown = yaml.safe_dump(here(*words, "--json").json["definition"])
        here.write("again.yaml", shown)
        assert versions(here("save", "again.yaml", "--json")) == {name: (1, False)}


def test_a_folder_is_saved_whole(here: Commands) -> None:
    """A folder stands for the documents in it, which may refer to each other whatever their order."""
    here.write("docs/1.yaml", JOURNEY)
    here.write("docs/2.yml", PAYING)
    here.write("docs/3.json", '{"segment": "grown", "match": {"attribute": "age", "at_least": "18"}}')
    assert set(versions(here("save", "docs", "--json"))) == {"hello", "paying", "grown"}


# ---------------------------------------------------------------------------------------------------- references


def test_a_reference_follows_the_newest_import_or_pins_one(here: Commands) -> None:
    """`{segment: vip}` means the newest import at any time, `vip@1` the first for ever."""
    assert here("segment", "import", "vip", "vip.csv", "--json").json["version"] == 1
    here.write(
        "refs.yaml", "segment: following\nmatch: {segment: vip}\n---\nsegment: pinned\nmatch: {segment: vip@1}\n"
    )
    here("save", "refs.yaml")

    def members() -> list[list[str]]:
        names = ("following", "pinned", "vip", "vip@1")
        return [here("segment", "preview", name, "--ids", "--json").json["user_ids"] for name in names]

    assert members() == [["u1", "u2", "u6"]] * 4
    here.write("vip.csv", "client\nu3\n")
    assert here("segment", "import", "vip", "vip.csv", "--json").json["version"] == 2
    assert members() == [["u3"], ["u1", "u2", "u6"], ["u3"], ["u1", "u2", "u6"]]
    assert versions(here("save", "refs.yaml", "--json")) == {"following": (1, False), "pinned": (1, False)}


def test_segments_in_a_circle_are_refused(here: Commands) -> None:
    """A segment that contains itself, at once or by others, is refused; so is a change that would close a circle."""
    here.write("self.yaml", "segment: a\nmatch: {not: {segment: a}}\n")
    here.write("two.yaml", "segment: a\nmatch: {segment: b}\n---\nsegment: b\nmatch: {all: [{segment: a}]}\n")
    before = here.kept()
    for file in ("self.yaml", "two.yaml"):
        said = here("save", file, "--json")
        assert said.status == 2
        assert any("a" in fault["message"] and fault["line"] for fault in said.errors)
        assert here.kept() == before
    here.write("a.yaml", PAYING + "---\nsegment: b\nmatch: {segment: paying}\n")
    here("save", "a.yaml")
    before = here.kept()
    here.write("later.yaml", "segment: paying\nmatch: {segment: b}\n")
    assert here("save", "later.yaml", "--json").status == 2
    assert here.kept() == before


def test_a_file_in_place_becomes_a_pinned_imported_segment(here: Commands) -> None:
    """Saving imports a file that a document names; the saved version names the import, and never a path."""
    text = JOURNEY.replace("{segment: paying}", "{file: vip.csv, column: client, identifier: user_id}")
    here.write("j.yaml", text)
    saved = here("save", "j.yaml", "--json").json["saved"]
    assert [(one["kind"], one["version"], one["changed"]) for one in saved] == [
        ("segment", 1, True),
        ("journey", 1, True),
    ]
    name = saved[0]["name"]
    definition = here("show", "hello", "--json").json["definition"]
    assert definition["entries"]["start"]["audience"] == {"segment": f"{name}@1"}
    assert here("plan", "hello", "--json").json["audience"] == 3
    before = here.kept()
    assert versions(here("save", "j.yaml", "--json")) == {name: (1, False), "hello": (1, False)}
    assert here.kept() == before
    here.write("vip.csv", "client\nu3\n")
    assert versions(here("save", "j.yaml", "--json")) == {name: (2, True), "hello": (2, True)}
    assert here("plan", "hello", "--json").json["audience"] == 1
    assert here("plan", "hello@1", "--json").json["audience"] == 3


def test_a_segment_of_nobody_is_warned_of(here: Commands) -> None:
    """A segment that holds nobody can be saved, with a warning that names it."""
    here.write("s.yaml", "segment: nobody\nmatch: {attribute: plan, is: gold}\n")
    checked = here("check", "s.yaml", "--json")
    assert (checked.status, checked.json["ok"]) == (0, True)
    (warning,) = checked.json["warnings"]
    assert (warning["file"], warning["line"]) == ("s.yaml", 1) or warning["line"] == 2
    assert "warning" in here("check", "s.yaml").err
    saved = here("save", "s.yaml", "--json")
    assert versions(saved) == {"nobody": (1, True)}
    assert len(saved.json["warnings"]) == 1


# --------------------------------------------------------------------------------------------------------- faults

BAD = {
    "a branch that leads nowhere": (
        JOURNEY.replace("next: done", "next: don"), "elements.promo.next", "don"),
    "a journey that does not end": (
        JOURNEY.replace("next: done", "next: promo"), None, "promo"),
    "an element that nothing reaches": (
        JOURNEY.replace("  done:", "  lost: {kind: exit}\n  done:"), "elements.lost", "lost"),
    "a segment that does not exist": (
        JOURNEY.replace("segment: paying", "segment: payin"), "entries.start.audience", "payin"),
    "an unknown attribute": (
        "segment: s\nmatch: {attribute: plam, is: paid}\n", "match", "plam"),
    "a wrong type": (
        "segment: s\nmatch: {attribute: age, at_least: old}\n", "match", "old"),
    "a wrong operator": (
        "segment: s\nmatch: {attribute: age, at_leest: 3}\n", "match", "at_leest"),
    "an unknown kind": (
        JOURNEY.replace("kind: push", "kind: posh"), "elements.promo", "posh"),
    "an unknown key": (
        JOURNEY.replace("title: Hi", "titel: Hi"), "elements.promo.message", "titel"),
    "a syntax error": (
        "journey: a\n  entries: [\n", None, "YAML"),
    "a duplicate key": (
        "segment: a\nmatch: {everyone: true}\nmatch: {everyone: true}\n", "match", "twice"),
    "an alias": (
        "segment: a\nmatch: &x {everyone: true}\n", None, "anchor"),
    "a condition without a leaf": (
        "segment: a\nmatch: {all: []}\n", "match.all", "no condition"),
    "a file outside the folder": (
        "segment: a\nmatch: {file: ../vip.csv, column: client}\n", "match.file", "../vip.csv"),
    "a file with an absolute path": (
        "segment: a\nmatch: {file: /etc/passwd, column: client}\n", "match.file", "/etc/passwd"),
    "a missing file": (
        "segment: a\nmatch: {file: gone.csv, column: client}\n", "match.file", "gone.csv"),
    "a wrong column of a file": (
        "segment: a\nmatch: {file: vip.csv, column: klient}\n", None, "klient"),
    "a wrong name": (
        "segment: My Segment\nmatch: {everyone: true}\n", "segment", "My Segment"),
    "no document": (
        "", None, "document"),
    "neither kind": (
        "a: 1\n", None, "neither"),
    "wrong encoding": (
        "segment: a # é\nmatch: {everyone: true}\n".encode("latin-1"), None, "UTF-8"),
    "an unknown filter": (
        JOURNEY.replace("title: Hi", 'title: "{{ user.plan | upcas }}"'), "elements.promo.message.title", "upcas"),
    "an attribute that no user has": (
        JOURNEY.replace("title: Hi", 'title: "{{ user.plam }}"'), "elements.promo.message.title", "plam"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_told_with_its_place_and_nothing_is_saved(here: Commands, name: str) -> None:
    """Each fault of a document has file, line and path; check and save refuse alike, and nothing is written."""
    text, path, quoted = BAD[name]
    here.write("paying.yaml", PAYING)
    here("save", "paying.yaml")
    here.write("bad.yaml", text)
    before = here.kept()
    checked = here("check", "bad.yaml", "--json")
    assert (checked.status, checked.json["ok"]) == (2, False)
    faults: list[dict[str, Any]] = checked.json["errors"]
    assert all(fault["file"] == "bad.yaml" for fault in faults)
    assert all(fault["line"] for fault in faults) or name == "no document"
    assert any(quoted in fault["message"] + (fault["hint"] or "") for fault in faults)
    if path is not None:
        assert any((fault["path"] or "").startswith(path) for fault in faults), faults
    saved = here("save", "bad.yaml", "--json")
    assert saved.status == 2
    assert saved.errors == faults
    assert here.kept() == before
    people = here("save", "bad.yaml")
    assert re.search(r"^error: bad\.yaml(:\d+)*: ", people.err, re.MULTILINE)
    assert people.err.rstrip().endswith("nothing was changed")


def test_two_typos_are_two_faults(here: Commands) -> None:
    """Faults are found together, each with file, line and column, in all files."""
    here.write("a.yaml", "segment: a\nmatch: {attribute: plam, is: paid}\n")
    here.write(
        "b.yaml",
        PAYING + "---\n" + JOURNEY.replace("next: done", "next: don").replace("title: Hi", 'title: "{{ usr.x }}"'),
    )
    faults = here("check", "a.yaml", "b.yaml", "--json").json["errors"]
    places = {(fault["file"], fault["line"], fault["path"]) for fault in faults}
    assert ("a.yaml", 2, "match.attribute") in places or ("a.yaml", 2, "match") in places
    assert ("b.yaml", 8, "elements.promo.next") in places
    assert ("b.yaml", 8, "elements.promo.message.title") in places
    assert all(fault["column"] for fault in faults)


def test_a_file_is_planned_without_being_saved(here: Commands) -> None:
    """`plan FILE` answers for a document that nobody saved, and writes nothing."""
    here.write("j.yaml", PAYING + "---\n" + JOURNEY)
    before = here.kept()
    plan = here("plan", "j.yaml", "--json").json
    assert (plan["audience"], plan["pushes"]["users"], plan["pushes"]["devices"]) == (4, 3, 4)
    assert here.kept() == before
    assert here("list", "--json").json == {"journeys": []}


# ------------------------------------------------------------------------------------------------------- schemas


TYPES: dict[str, Any] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"integer": int, "number": int | float},
}


def accepts(schema: dict[str, Any], data: Any, root: dict[str, Any]) -> bool:
    """Tell whether a value fits a JSON Schema, by the keywords that ours use."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], data, root)
    wanted = schema.get("type", list(TYPES))
    return (
        isinstance(data, tuple(TYPES[one] for one in ([wanted] if isinstance(wanted, str) else wanted)))
        and data in schema.get("enum", [data])
        and data == schema.get("const", data)
        and not (isinstance(data, str) and not re.search(schema.get("pattern", ""), data))
        and all(any(accepts(one, data, root) for one in schema[kind]) for kind in ("anyOf", "oneOf") if kind in schema)
        and not (isinstance(data, list) and not all(accepts(schema.get("items", {}), one, root) for one in data))
        and not (isinstance(data, dict) and not _accepts_keys(schema, data, root))
    )


def _accepts_keys(schema: dict[str, Any], data: dict[str, Any], root: dict[str, Any]) -> bool:
    if not set(schema.get("required", ())) <= set(data):
        return False
    for key, value in data.items():
        like = [one for pattern, one in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        known = [schema["properties"][key]] if key in schema.get("properties", {}) else like
        others = schema.get("additionalProperties", True)
        if not known and isinstance(others, bool):
            if not others:
                return False
        elif not all(accepts(one, value, root) for one in known or [others]):
            return False
    return True


def examples() -> dict[str, Any]:
    """The first two examples, as an editor reads them."""
    with (SHARED / "examples/journeys.yaml").open() as file:
        found = {one["journey"]: one for one in yaml.safe_load_all(file)}
    return {name: found[name] for name in ("j01-vip-hello", "j02-win-back")}


@pytest.mark.parametrize("name", ["j01-vip-hello", "j02-win-back"])
def test_the_published_schema_accepts_the_examples(here: Commands, name: str) -> None:
    """An editor that holds the published JSON Schema finds nothing wrong with the examples, and finds a typo."""
    schema = here("schema", "journey", "--json").json
    example = examples()[name]
    assert accepts(schema, example, schema)
    for spoilt in (
        {**example, "titel": "x"},
        {**example, "elements": {**example["elements"], "done": {"kind": "exitt"}}},
        {key: value for key, value in example.items() if key != "entries"},
    ):
        assert not accepts(schema, spoilt, schema)


def test_the_published_schema_is_a_schema(here: Commands) -> None:
    """Every reference of the published schemas is defined in them, and people read a text at each key of a document."""
    for kind in ("journey", "segment"):
        schema = here("schema", kind, "--json").json
        assert set(re.findall(r'"#/\$defs/([^"]+)"', here("schema", kind).out)) <= set(schema["$defs"])
        assert all(key.get("description") for key in schema["properties"].values())
        assert kind in schema["required"]


def test_the_examples_check_and_save(here: Commands) -> None:
    """The first two examples check and save as they stand, beside the segments that they name."""
    texts = re.split(r"^---\n", (SHARED / "examples/journeys.yaml").read_text(), flags=re.MULTILINE)[:2]
    here.write("journeys.yaml", "---\n".join(texts))
    here.write(
        "segments.yaml",
        "segment: paying-customers\nmatch: {attribute: plan, in: [paid, pro]}\n---\n"
        "segment: loyal-customers\nmatch: {attribute: age, at_least: 30}\n",
    )
    assert here("check", ".", "--json").json["ok"] is True
    saved = versions(here("save", "journeys.yaml", "segments.yaml", "--json"))
    assert {"j01-vip-hello", "j02-win-back"} <= set(saved)
    assert here("plan", "j01-vip-hello", "--json").json["audience"] == 3
    assert here("plan", "j02-win-back", "--json").json["elements"]["loyal"]["branches"] == {
        **{"users_in_segment": 3, "all_other_users": 1}
    }
    assert len(read_documents(here.folder / "journeys.yaml")) == 2
