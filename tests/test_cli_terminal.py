"""At a terminal the command line writes for people: nothing too wide, data as it is, and help for every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scripts.cli import COMMANDS, journeys
from tests.commands import Commands


def test_the_list_of_commands_says_what_each_says() -> None:
    """What `journeys --help` says of each command, without loading it, is the first sentence of the command's help."""
    for name, (_, said) in COMMANDS.items():
        assert journeys.commands[name].get_short_help_str(200) == said, name


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
