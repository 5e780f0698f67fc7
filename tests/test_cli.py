"""The command line's contract: one JSON object, the exit status, and a failure that says what to do."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scripts.cli import COMMANDS, journeys
from tests.commands import Commands, one_object
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, VIP

EVENTS = """\
event_id,user_id,event,at,amount
e1,u1,purchase,2026-01-05T10:00:00Z,20.00 EUR
e2,u2,purchase,2026-01-06T10:00:00Z,15.50 EUR
e3,u1,session,2026-01-07T10:00:00Z,
"""


def filled(folder: Path) -> Commands:
    """A folder with tables, files and saved documents."""
    found = Commands(folder)
    for name, text in (("users", USERS), ("devices", DEVICES), ("events", EVENTS)):
        found.write(f"{name}.csv", text)
        assert found("import", name, f"{name}.csv").status == 0
    found.write("vip.csv", VIP)
    found.write("all.yaml", SAMPLE_DOCUMENTS)
    assert found("save", "all.yaml").status == 0
    assert found("segment", "import", "vip", "vip.csv").status == 0
    return found


@pytest.fixture(scope="module")
def house_of_all(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """For commands that change nothing."""
    return filled(tmp_path_factory.mktemp("all"))


@pytest.fixture
def changed(tmp_path: Path) -> Commands:
    """For commands that change something."""
    return filled(tmp_path)


def test_the_list_of_commands_says_what_each_says() -> None:
    """What `journeys --help` says of each command, without loading it, is the first sentence of the command's help."""
    for name, (_, said) in COMMANDS.items():
        assert journeys.commands[name].get_short_help_str(200) == said, name


# ------------------------------------------------------------------------------------------------------- shapes

IMPORTED = {
    *("table", "version", "rows", "inserted", "updated", "unchanged", "rejected"),
    *("users_added", "rejects_file", "warnings"),
}
LISTED = {
    *("segment", "version", "rows", "users", "unknown", "duplicates", "empty", "rejected", "rejects_file"),
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
    """`journeys segment` prints exactly the keys of the design."""
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


# -------------------------------------------------------------------------------------------------------- people

READING = (
    *("tables", "list", "show hello", "versions hello", "plan hello", "stats hello", "explain hello u1", "pushes"),
    *("settings", "segment list", "segment show grown", "segment preview vip", "segment explain grown u1"),
)


@pytest.mark.parametrize("words", READING)
def test_people_read_eighty_columns(house_of_all: Commands, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Without --json a command writes for people: no JSON, nothing wider than the terminal, instants to the second."""
    monkeypatch.setenv("COLUMNS", "80")
    said = house_of_all(*words.split())
    assert said.status == 0
    assert said.out.strip()
    assert not said.out.lstrip().startswith("{")
    home = str(house_of_all.folder)
    assert all(len(line) <= 80 for line in said.out.splitlines() if home not in line)
    assert "+00:00" not in said.out
    assert not re.search(r"\d\d:\d\d:\d\d\.\d", said.out)


def test_the_funnel_tells_each_branch_on_a_line_of_its_own(
    house_of_all: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two branches are shown as "Users in a segment" and "All other users", each with its number."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = [" ".join(line.split()) for line in house_of_all("plan", "hello").out.splitlines()]
    assert "loyal 4" in lines
    assert "-> Users in a segment 3 75%" in lines
    assert "-> All other users 1 25%" in lines
    assert "skipped: no-reachable-device 1 33%" in lines
    assert "pushes: 2 users on 3 devices (outbox 3)" in lines


def test_a_row_in_a_pipe_is_one_line(house_of_all: Commands) -> None:
    """Where there is no terminal no row is folded, so that other programs can read it."""
    said = house_of_all.run("settings")
    assert any(len(line) > 100 for line in said.out.splitlines())
    assert said.err == ""


def test_data_is_printed_as_it_is(changed: Commands) -> None:
    """Nothing that a table holds is taken for markup, nor breaks the output."""
    odd = "[bold]u[/x]"
    changed.write("odd.csv", f"user_id,plan\n{odd},[red]paid[/]\n")
    assert changed("import", "users", "odd.csv").status == 0
    assert odd in changed("explain", "hello", odd).out
    explained = changed("segment", "explain", "paying", odd)
    assert odd in explained.out
    assert "[red]paid[/]" in explained.out


def test_numbers_of_thousands_are_grouped(tmp_path: Path) -> None:
    """Counts for people are grouped by thousands; JSON's are numbers."""
    here = Commands(tmp_path)
    here.write("users.csv", "user_id\n" + "".join(f"u{number}\n" for number in range(1_200)))
    assert "1,200 rows, 1,200 inserted" in here("import", "users", "users.csv").out
    assert "1,200" in here("tables").out
    assert here("tables", "--json").json["tables"][0]["rows"] == 1_200


# ---------------------------------------------------------------------------------------------------------- help


def _commands(group: click.Group, to: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*to, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*to, name))


ISSUE = "new dev worker import tables check save list show versions plan start stats explain pushes segment settings"


def test_help_lists_every_command_with_its_line(house_of_all: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--help` lists every command, each with a line of help that is not cut off at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    pages = {(): house_of_all("--help").out}
    for to, command in _commands(journeys):
        assert command.help, to
        page = pages[to[:-1]]
        summary = command.help.splitlines()[0]
        assert re.search(rf"^  {re.escape(to[-1])} +{re.escape(summary)}$", page, re.MULTILINE), (to, page)
        own = house_of_all(*to, "--help")
        assert own.status == 0
        assert own.out.startswith(f"Usage: journeys {' '.join(to)} ")
        if isinstance(command, click.Group):
            pages[to] = own.out
    listed = {" ".join(to) for to, _ in _commands(journeys)}
    assert set(ISSUE.split()) <= listed
    assert {f"segment {name}" for name in ("list", "show", "import", "save", "preview", "explain")} <= listed


# ------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("", "usage"),
        ("bogus", "usage"),
        ("list extra", "usage"),
        ("list --nope", "usage"),
        ("stats", "usage"),
        ("stats hello --version 0", "usage"),
        ("stats hello --version x", "usage"),
        ("schema poem", "usage"),
        ("import people users.csv", "usage"),
        ("segment import v vip.csv --identifier email", "usage"),
        ("show hello@0", "usage"),
        ("show hello@x", "usage"),
        ("show nobody", "not-found"),
        ("show hello@9", "not-found"),
        ("stats nobody", "not-found"),
        ("stats hello --version 9", "not-found"),
        ("versions nobody", "not-found"),
        ("plan nobody", "not-found"),
        ("explain nobody u1", "not-found"),
        ("explain hello nobody", "not-found"),
        ("pushes nobody", "not-found"),
        ("segment show nobody", "not-found"),
        ("segment show vip@7", "not-found"),
        ("segment preview nobody", "not-found"),
        ("segment explain nobody u1", "not-found"),
        ("segment explain grown nobody", "not-found"),
    ],
)
def test_what_makes_no_sense_is_refused(house_of_all: Commands, words: str, code: str) -> None:
    """Usage and unknown names: exit status 2, one object with --json, a line for people, nothing changed."""
    before = house_of_all.kept()
    said = house_of_all(*words.split(), "--json")
    assert (said.status, said.codes) == (2, [code])
    assert said.errors[0]["hint"] or "@" in said.errors[0]["message"]
    assert said.err == ""
    if words:
        people = house_of_all(*words.split())
        assert (people.status, people.out) == (2, "")
        assert people.err.startswith("error: ")
        assert "Traceback" not in people.err
    assert house_of_all.kept() == before


def test_an_unknown_name_is_told_with_those_that_exist(house_of_all: Commands) -> None:
    """What was probably meant is said."""
    assert "hello" in house_of_all("show", "helo", "--json").errors[0]["message"]
    assert "stats" in house_of_all("stat", "--json").errors[0]["message"]


def test_a_store_that_cannot_be_reached_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is not there: exit status 1, told as such, no traceback."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOURNEYS_DATABASE", f"sqlite:///{tmp_path}/file/ledger.db")
    said = Commands(tmp_path)("list", "--json")
    assert (said.status, said.codes) == (1, ["store-unavailable"])
    assert said.err == ""
    monkeypatch.setenv("JOURNEYS_DATABASE", "oracles://me:hunter2@nowhere")
    wrong = Commands(tmp_path)("list", "--json")
    assert (wrong.status, wrong.codes) == (2, ["wrong-address"])
    assert "hunter2" not in wrong.out


def test_a_wrong_setting_is_refused_by_every_command(house_of_all: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value of a setting is told with the variable's name."""
    monkeypatch.setenv("JOURNEYS_POLLERS", "many")
    said = house_of_all("list", "--json")
    assert (said.status, said.codes) == (2, ["wrong-setting"])
    assert said.errors[0]["path"] == "JOURNEYS_POLLERS"


@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_ends_a_command(tmp_path: Path, as_json: bool) -> None:
    """Ctrl-C: exit status 130, one object with --json, no traceback."""
    here = Commands(tmp_path)
    os.mkfifo(tmp_path / "slow.yaml")
    with here.program("segment", "preview", "slow.yaml", *(["--json"] if as_json else [])) as process:
        writer = os.open(tmp_path / "slow.yaml", os.O_WRONLY)  # waits until the command reads
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(30) == 130, err
        os.close(writer)
    assert "Traceback" not in err
    if as_json:
        assert one_object(out)["errors"][0]["code"] == "interrupted"
    else:
        assert (out, err.strip()) == ("", "error: interrupted")


def test_a_reader_who_has_enough_is_no_error(house_of_all: Commands) -> None:
    """Output into a closed pipe ends the command without a traceback."""
    with house_of_all.program("schema", "journey") as process:
        process.stdout.close()
        err = process.stderr.read()
    assert "Traceback" not in err
    assert "Exception" not in err


def test_the_program_prints_json_on_standard_output_alone(house_of_all: Commands) -> None:
    """As a program too: one object on standard output, nothing else anywhere; a failure as well."""
    good = house_of_all.run("plan", "hello", "--json")
    assert (good.status, good.json["audience"], good.err) == (0, 4, "")
    bad = house_of_all.run("show", "nobody", "--json")
    assert (bad.status, bad.codes, bad.err) == (2, ["not-found"], "")


# ------------------------------------------------------------------------------------------------ files to import


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
