"""What commands print: one JSON object with `--json`, tables for people without; and what failing looks like."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import click
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from workflows.errors import DefinitionError, Fault, JourneyError

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit status: 1 where a retry may help, 2 where the input, the usage or the state has to change."""

Arguments = ParamSpec("Arguments")


def wants_json() -> bool:
    """Tell whether the command line asks for JSON; also before it is parsed, for what is wrong with it."""
    return "--json" in sys.argv[1:]


def people() -> Console:
    """The console for people: standard error when standard output carries JSON."""
    return Console(stderr=wants_json(), highlight=False, soft_wrap=True)


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Print exactly one JSON object. Instants are RFC 3339 in UTC; absent is null."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    click.echo(json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print rows for people; numbers stand to the right."""
    kept = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        numeric = bool(kept) and all(isinstance(row[place], int | None) for row in kept)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in kept:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    people().print(table)


def print_faults(faults: Iterable[Fault], *, label: str) -> None:
    """Print faults or warnings, each with its place and what to do."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    style = "bold red" if label == "error" else "yellow"
    for fault in faults:
        console.print(f"[{style}]{label}[/]: ", end="")
        console.print(str(fault), markup=False)


def print_failure(error: JourneyError) -> int:
    """Print a failure, for people or as JSON, and give the exit status."""
    if wants_json():
        errors = [fault.model_dump(mode="json", exclude_none=True) for fault in error.faults]
        print_json({"ok": False, "errors": errors})
    else:
        print_faults(error.faults, label="error")
        if isinstance(error, DefinitionError):
            count = len(error.faults)
            click.echo(f"{count} error{'s' if count != 1 else ''}; nothing was changed", err=True)
    return REFUSED if error.refused else FAILED


def json_option(command: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Give a command the option `--json`."""

    @click.option("--json", "as_json", is_flag=True, expose_value=False, help="Print exactly one JSON object.")
    @wraps(command)
    def optioned(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        return command(*args, **kwargs)

    return optioned
