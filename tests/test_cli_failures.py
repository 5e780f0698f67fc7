"""A command that fails says so by its exit status and one object, says what to do, and changes nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.commands import Commands, one_object


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


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("save bad.yaml", True),
        ("segment save bad bad.yaml", True),
        ("segment preview bad.yaml", False),
        ("segment explain bad.yaml u1", False),
        ("plan bad.yaml", False),
        ("diff bad.yaml bad.yaml", False),
        ("check bad.yaml", False),
    ],
)
def test_only_what_would_have_changed_something_says_it_did_not(
    house_of_all: Commands, words: str, changes: bool
) -> None:
    """The last line of a refusal tells that nothing was changed where somebody could fear that something was."""
    house_of_all.write("bad.yaml", "segment: bad\nmatch: {attribute: nosuch, iss: 1}\n")
    said = house_of_all(*words.split())
    assert said.status == 2
    assert ("nothing was changed" in said.err) is changes
    assert said.err.rstrip().endswith("2 errors; nothing was changed" if changes else "2 errors") or "check" in words


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
