"""What commands print: one JSON object with `--json`, tables for people without; and what failing looks like."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from itertools import pairwise
from typing import Any, ParamSpec

import click
import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workflows.errors import DefinitionError, Fault, JourneyError

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit status: 1 where a retry may help, 2 where the input, the usage or the state has to change."""

UNFOLDED = 1_000
"""Width of what goes to a file or a pipe: a row stays one line there, so that other programs can read it."""

LOOKING = (
    ("check",),
    ("diff",),
    ("draw",),
    ("explain",),
    ("plan",),
    ("push", "preview"),
    ("segment", "explain"),
    ("segment", "preview"),
    ("test",),
    ("try",),
)
"""Commands that read documents and change nothing anyway: that nothing was changed says nothing of their failures."""

Arguments = ParamSpec("Arguments")


def wants_json() -> bool:
    """Tell whether the command line asks for JSON; also before it is parsed, for what is wrong with it."""
    words = sys.argv[1:]
    return bool({"--json", "--format=json"} & {*words}) or ("--format", "json") in pairwise(words)


def people(*, stderr: bool | None = None) -> Console:
    """Give the console for people.

    Args:
        stderr: Whether it writes to standard error; null does so when standard output carries JSON.

    Returns:
        A console as wide as the terminal, or wide enough for any row where there is none.
    """
    console = Console(stderr=wants_json() if stderr is None else stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:  # the variable COLUMNS still counts
        console.width = shutil.get_terminal_size((UNFOLDED, 0)).columns
    return console


def instant(value: datetime) -> str:
    """Write an instant for people: RFC 3339 in UTC, to the second. JSON keeps the whole instant."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_json(value: datetime) -> str:
    """Write an instant for programs: RFC 3339 in UTC, whole."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def counted(number: int, what: str) -> str:
    """Write a number with its noun: `1 error`, `1,200 errors`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def enumerated(numbers: Mapping[str, int]) -> str:
    """Write numbers side by side, each with what it counts: `1,200 rows, 3 unknown`."""
    return ", ".join(f"{number:,} {what}" for what, number in numbers.items())


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Print exactly one JSON object. Instants are RFC 3339 in UTC; absent is null.

    Raises:
        ValueError: A number is NaN or infinite: no reader of JSON takes it, so that it has to be a text by now.
    """
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent))


def print_yaml(value: dict[str, Any]) -> None:
    """Print a definition for people, as its author would write it."""
    click.echo(yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=110), nl=False)


def faults_json(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    """Give faults as JSON: every fault has the same keys, and what is absent is null."""
    return [{name: value or None for name, value in fault.model_dump(mode="json").items()} for fault in faults]


def print_faults_json(faults: Iterable[Fault]) -> None:
    """Print a failure as one JSON object."""
    print_json({"ok": False, "errors": faults_json(faults)})


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for people, as `table_of` shows them."""
    people().print(table_of(headings, rows))


def table_of(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Show rows for people; numbers stand to the right.

    Args:
        headings: One for each column.
        rows: Cells: a `Text` is printed as it is styled, anything else literally, null as nothing.
    """
    kept = [list(row) for row in rows]
    table = Table(header_style="bold", box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        numeric = bool(kept) and all(isinstance(row[place], int | None) for row in kept)
        instants = any(isinstance(row[place], datetime) for row in kept)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=instants)
    for row in kept:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    match value:
        case Text():
            return value
        case None:
            return Text()
        case bool():
            return Text("yes" if value else "no")
        case int():
            return Text(f"{value:,}")
        case datetime():
            return Text(instant(value))
    return Text(str(value))


def print_faults(faults: Iterable[Fault], *, label: str) -> None:
    """Print faults or warnings, each with its place and what to do."""
    console = people(stderr=True)
    style = "bold red" if label == "error" else "yellow"
    for fault in faults:
        console.print(Text(label, style=style), Text(str(fault)), sep=": ")


def print_failure(error: JourneyError) -> int:
    """Print a failure, for people or as JSON, and give the exit status."""
    if wants_json():
        print_faults_json(error.faults)
    else:
        print_faults(error.faults, label="error")
        if isinstance(error, DefinitionError):
            said = "" if _only_looks() else "; nothing was changed"
            click.echo(f"{counted(len(error.faults), 'error')}{said}", err=True)
    return REFUSED if error.refused else FAILED


def _only_looks() -> bool:
    words = tuple(word for word in sys.argv[1:] if not word.startswith("-"))
    return any(words[: len(command)] == command for command in LOOKING)


def json_option(command: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Give a command the option `--json`."""

    @click.option("--json", "as_json", is_flag=True, expose_value=False, help="Print exactly one JSON object.")
    @wraps(command)
    def optioned(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        return command(*args, **kwargs)

    return optioned
