"""Files imported by the command line: what cannot be read changes nothing, and what is odd is told and kept apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import Commands


@pytest.mark.parametrize(
    ("table", "content", "said"),
    [
        ("users", "id,plan\nu1,free\n", "'user_id'"),
        ("users", "", "empty"),
        ("users", b"\xff\xfe\x00\xd8", "broken.csv"),
        ("users", None, "broken.csv"),
        ("devices", "user_id,platform\nu1,ios\n", "'device_id'"),
        ("devices", "device_id,platform\nd1,ios\n", "'user_id'"),
        ("events", "user_id,at\nu1,2026-01-01\n", "'event'"),
        ("events", "user_id,event\nu1,purchase\n", "'at'"),
    ],
)
def test_a_file_that_cannot_be_imported_changes_nothing(
    changed: Commands, table: str, content: str | bytes | None, said: str
) -> None:
    """A missing column, an empty file, no text, no file: refused with what is wrong, and nothing is written."""
    if content is not None:
        changed.write("broken.csv", content)
    before = changed.kept()
    found = changed("import", table, "broken.csv", "--json")
    assert found.status == 2
    assert said in found.errors[0]["message"]
    assert changed.kept() == before
    people = changed("import", table, "broken.csv")
    assert said in people.err
    assert people.out == ""


def test_a_folder_that_does_not_exist_is_told(changed: Commands) -> None:
    """A file in a folder that does not exist is refused by every command that reads files."""
    for words in ("import users", "check", "save", "plan", "segment preview", "segment import v", "segment save v"):
        found = changed(*words.split(), "nowhere/file.yaml", "--json")
        if words == "check":
            assert (found.status, found.json["ok"]) == (2, False)
            message = found.json["errors"][0]["message"]
        else:
            assert found.status == 2
            message = found.errors[0]["message"]
        assert "nowhere/file.yaml" in message, words


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((f"pipe.{ending}", "is a pipe") for ending in ("csv", "ndjson", "parquet", "other")),
        ("-", "- is standard input"),
        ("/dev/stdin", "/dev/stdin is standard input"),
        ("/dev/null", "is a device"),
        ("folder.csv", "is a folder"),
    ],
)
def test_what_is_no_file_is_refused_at_once(changed: Commands, name: str, said: str) -> None:
    """A pipe, standard input, a device or a folder is no file: nothing waits for it, and the refusal says so."""
    if name.startswith("pipe"):
        os.mkfifo(changed.folder / name)
    elif name.startswith("folder"):
        (changed.folder / name).mkdir()
    for words in ("import users", "segment import vip", "segment import vip --column user_id"):
        found = changed(*words.split(), name, "--json")
        assert found.status == 2
        assert said in found.errors[0]["message"]
        assert "Save the rows as a file first" in found.errors[0]["hint"]


def test_rows_that_are_wrong_are_told_and_kept_apart(changed: Commands) -> None:
    """A row of the wrong length is rejected with its reason; the others are imported."""
    changed.write("ragged.csv", "user_id,plan\nu7,free\nu8,paid,extra\nu9,pro\n")
    report = changed("import", "users", "ragged.csv", "--json").json
    assert (report["rows"], report["inserted"], report["rejected"]) == (3, 2, 1)
    rejects = Path(report["rejects_file"]).read_text()
    assert "u8" in rejects
    assert "u9" not in rejects


def test_repeated_ids_and_foreign_encodings_are_warned_of(changed: Commands) -> None:
    """The last of two rows with one id is taken, and text that is not UTF-8 is read as what it is, with warnings."""
    changed.write("twice.csv", "user_id,plan\nu7,free\nu7,paid\n")
    twice = changed("import", "users", "twice.csv", "--json").json
    assert twice["inserted"] == 1
    assert any("user_id" in warning for warning in twice["warnings"])
    changed.write("latin.csv", "user_id,first_name\nu7,André\n".encode("latin-1"))
    latin = changed("import", "users", "latin.csv", "--json").json
    assert any("UTF-8" in warning for warning in latin["warnings"])
    assert changed("segment", "preview", "-", "--json", stdin="{attribute: first_name, is: André}").json["users"] == 1


def test_importing_the_same_file_again_changes_nothing(changed: Commands) -> None:
    """The same rows again: unchanged, and no new version."""
    before = changed.kept()
    report = changed("import", "users", "users.csv", "--json").json
    assert (report["inserted"], report["updated"], report["unchanged"]) == (0, 0, 6)
    assert changed.kept() == before
