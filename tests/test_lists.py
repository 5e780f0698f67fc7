"""Lists of ids: what a segment holds after its file was imported, again, by a command or by a document."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities.documents.files import NAME_LENGTH, segment_names
from tests.commands import Commands
from workers.engine import Engine
from workflows.conditions import FileRef
from workflows.documents import SegmentDocument


def ids(commands: Commands, segment: str) -> list[str]:
    """Who is in a segment now."""
    return list(commands("segment", "preview", segment, "--ids", "--json").json["user_ids"])


def test_the_same_list_brings_back_who_was_erased(changed: Commands) -> None:
    """Erased and imported again as a user, a member is in the list again once its file is, and no version is made."""
    assert ids(changed, "vip") == ["u1", "u2", "u6"]
    assert changed("user", "erase", "u1", "--without-runs", "--yes").status == 0
    assert changed("import", "users", "users.csv").status == 0
    assert ids(changed, "vip") == ["u2", "u6"]
    again = changed("segment", "import", "vip", "vip.csv", "--json").json
    assert (again["version"], again["users"], again["size"]["users"]) == (1, 3, 3)
    assert ids(changed, "vip") == ["u1", "u2", "u6"]


def test_who_was_erased_can_be_added(changed: Commands) -> None:
    """`--add` of an erased member whom the newest version still counts puts him into the list."""
    assert changed("user", "erase", "u1", "--without-runs", "--yes").status == 0
    assert changed("import", "users", "users.csv").status == 0
    changed.write("one.csv", "user_id\nu1\n")
    assert changed("segment", "import", "vip", "one.csv", "--add", "--json").json["size"]["users"] == 3
    assert ids(changed, "vip") == ["u1", "u2", "u6"]


def test_a_list_is_there_after_the_tables_were_lost(changed: Commands) -> None:
    """With the tables gone and imported anew, importing the list again gives it its members."""
    shutil.rmtree(changed.folder / ".journeys" / "tables")
    assert changed("import", "users", "users.csv").status == 0
    assert changed("segment", "preview", "vip", "--json").errors[0]["message"].startswith("there is no table members")
    again = changed("segment", "import", "vip", "vip.csv", "--json").json
    assert (again["version"], again["size"]) == (1, {"users": 3, "devices": 0, "reachable": 0})


def test_a_list_tells_three_numbers_and_what_was_assumed(changed: Commands) -> None:
    """An import says users, devices and reachable users of the segment, and in which encoding it read the file."""
    changed.write("old.csv", "user_id;note\nu1;café\nu2;\n".encode("cp1252"))
    told = changed("segment", "import", "old", "old.csv", "--json").json
    assert told["size"] == {"users": 2, "devices": 3, "reachable": 1}
    assert [warning for warning in told["warnings"] if "Windows-1252" in warning]
    shown = changed("segment", "import", "old2", "old.csv")
    assert "2 users, 3 devices, 1 reachable" in shown.out
    assert "Windows-1252" in shown.err


def test_a_misspelt_column_is_told_with_the_one_that_was_meant(changed: Commands) -> None:
    """A document or a command that names no column of the file is wrong itself: no header is to be renamed."""
    changed.write("u.csv", "user_id,since\nu1,2020\n")
    (given,) = changed("segment", "import", "new", "u.csv", "--column", "user_idd", "--json").errors
    written = "all:\n- {file: u.csv,\n   column: user_idd}\n"
    (told,) = changed("segment", "preview", "-", "--json", stdin=written).errors
    for fault in (given, told):
        assert (fault["code"], fault["hint"]) == ("unknown-column", "did you mean `user_id`?")
        assert "there is no column 'user_idd'; the header is: 'user_id', 'since'" in fault["message"]
    assert (told["path"], told["line"], told["column"]) == ("match.all[0].column", 3, 12)
    (far,) = changed("segment", "import", "new", "u.csv", "--column", "quite", "--json").errors
    assert far["hint"] == "name the column that holds the ids"


def test_a_file_of_another_name_makes_no_version(changed: Commands) -> None:
    """A list of the very same ids in a file of another name is the version there is."""
    shutil.copy(changed.folder / "vip.csv", changed.folder / "copy.csv")
    assert changed("segment", "import", "vip", "copy.csv", "--json").json["version"] == 1


def test_a_list_does_not_replace_a_condition(changed: Commands) -> None:
    """Importing a file under the name of a condition is refused, and the condition stays."""
    before = ids(changed, "grown")
    assert changed("segment", "import", "grown", "vip.csv", "--json").codes == ["not-a-list"]
    assert ids(changed, "grown") == before


TWICE = """\
journey: twice
entries:
  start:
    kind: audience-entry
    audience: {any: [{file: lists/crm.csv, column: client}, {file: lists/crm.csv, column: partner}]}
    next: split
elements:
  split:
    kind: condition-split
    match: {file: other/crm.csv, column: client}
    branches: {users_in_segment: done, all_other_users: done}
  done: {kind: exit}
"""


def test_a_document_may_take_several_lists_of_one_name(changed: Commands) -> None:
    """Two columns of a file and a namesake in another folder are three lists, and saved again nothing changes."""
    changed.write("lists/crm.csv", "client,partner\nu1,u2\nnobody,u3\n")
    changed.write("other/crm.csv", "client\nu5\nstranger\n")
    changed.write("twice.yaml", TWICE)
    saved = changed("save", "twice.yaml", "--json").json
    names = [one["segment"] for one in saved["imported"]]
    assert len(set(names)) == 3, names
    assert "twice-crm-partner" in names
    assert [(one["rows"], one["users"], one["unknown"]) for one in saved["imported"]] == [
        (2, 1, 1),
        (2, 2, 0),
        (2, 1, 1),
    ]
    assert [ids(changed, name) for name in names] == [["u1"], ["u2", "u3"], ["u5"]]
    left_out = [Path(one["rejects_file"]).read_text() for one in saved["imported"] if one["rejects_file"]]
    assert ["nobody" in left_out[0], "stranger" in left_out[1]] == [True, True]
    again = changed("save", "twice.yaml", "--json").json
    assert {one["changed"] for one in again["saved"]} == {False}
    assert [one["version"] for one in again["imported"]] == [1, 1, 1]


@pytest.mark.parametrize("long", ["x" * 70, "y-" * 60])
def test_names_of_lists_differ_and_fit(long: str) -> None:
    """Whatever files and columns are called, each reference has a name of its own, not too long."""
    refs = [
        FileRef.model_validate({"file": f"{folder}/{stem}.csv", "identifier": identifier, **column})
        for folder in ("a", "b")
        for stem in (long, f"{long}!", "c", "c-d")
        for column in ({}, {"column": "d"}, {"column": "é"}, {"column": "è"})
        for identifier in ("user_id", "device_id")
    ]
    names = segment_names(long[:60].strip("-"), refs)
    assert len(set(names.values())) == len(refs)
    assert max(map(len, names.values())) <= NAME_LENGTH
    assert segment_names(long[:60].strip("-"), refs) == names


SOLO = """\
journey: solo
entries: {start: {kind: audience-entry, audience: {file: vip.csv}, next: done}}
elements: {done: {kind: exit}}
"""


@pytest.mark.parametrize("beside", [False, True])
def test_a_list_in_place_does_not_replace_a_condition(changed: Commands, beside: bool) -> None:
    """A file whose list would be called as a condition, saved or beside it, is a fault; nothing is saved."""
    condition = "segment: solo-vip\nmatch: {attribute: user_id, is: u3}\n"
    if beside:
        changed.write("solo.yaml", f"{condition}---\n{SOLO}")
    else:
        changed.write("own.yaml", condition)
        changed.write("solo.yaml", SOLO)
        assert changed("save", "own.yaml").status == 0
    said = changed("save", "solo.yaml", "--json")
    assert said.codes == ["name-taken"]
    assert "'solo-vip'" in said.errors[0]["message"]
    assert beside or ids(changed, "solo-vip") == ["u3"]
    assert "solo" not in [row["journey"] for row in changed("list", "--json").json["journeys"]]


def test_a_list_in_place_does_not_replace_a_list_of_another_file(changed: Commands) -> None:
    """A list that somebody imported by hand is not replaced by a document's file that would be called as it."""
    changed.write("one.csv", "user_id\nu3\n")
    assert changed("segment", "import", "solo-vip", "one.csv").status == 0
    changed.write("solo.yaml", SOLO)
    said = changed("save", "solo.yaml", "--json")
    assert said.codes == ["name-taken"]
    assert "the list of 'one.csv'" in said.errors[0]["message"]
    assert ids(changed, "solo-vip") == ["u3"]


def test_one_segment_that_cannot_be_counted_hides_no_other(changed: Commands) -> None:
    """A stored segment that can be evaluated no more is told, and the others are counted."""
    with Engine.open(changed.settings) as engine:
        lost = SegmentDocument.model_validate({"segment": "lost", "match": {"segment": "nowhere"}})
        engine.stores.catalogue.save([], lambda _: [lost], datetime.now(UTC))
    said = changed("segment", "list", "--json")
    sizes = {row["segment"]: row["users"] for row in said.json["segments"]}
    assert (said.status, sizes["lost"], sizes["vip"]) == (0, None, 3)
    assert "segment lost" in said.err
    assert "nowhere" in said.err


def test_checking_writes_nothing(changed: Commands) -> None:
    """`check`, `plan` and `preview` of documents with lists leave the folder as it is, also where rows name nobody."""
    changed.write("solo.yaml", SOLO)
    changed.write("list.yaml", "segment: list\nmatch: {file: vip.csv}\n")
    changed.write("vip.rejects.csv", "my own notes\n")
    before = changed.kept()
    for words in (("check", "solo.yaml"), ("plan", "solo.yaml"), ("segment", "preview", "list.yaml")):
        assert changed(*words).status == 0
    assert changed.kept() == before
    assert (changed.folder / "vip.rejects.csv").read_text() == "my own notes\n"
    assert not list(changed.folder.glob("*.rejects.csv.*"))


def test_a_list_that_is_mostly_of_strangers_is_warned_of(changed: Commands) -> None:
    """Where more rows are left out than found, checking says how many and why, at the file's place."""
    changed.write("vip.csv", "user_id\nu1\nx\ny\n")
    changed.write("solo.yaml", SOLO)
    (warning,) = changed("check", "solo.yaml", "--json").json["warnings"]
    assert (warning["code"], warning["path"], warning["line"]) == ("rows-left-out", "entries.start.audience.file", 2)
    assert "2 unknown" in warning["message"]
    assert changed("check", "solo.yaml", "--json").json["ok"] is True
