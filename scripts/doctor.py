"""`journeys doctor`: what is wrong with anything that journeys need, and how to mend it."""

from __future__ import annotations

import asyncio

import click
from rich.text import Text

from scripts.output import DONE, FAILED, json_option, people, print_json, wants_json
from workers.diagnosis import Check, examine
from workers.settings import load_settings
from workflows.errors import DefinitionError


@click.command()
@json_option
def doctor() -> int:
    """Check what journeys need, and tell how to mend it.

    Nothing is changed. Exit status 0 when all is well, 1 otherwise.
    """
    try:
        settings = load_settings()
    except DefinitionError as error:
        checks = [
            Check(check="settings", ok=False, message=str(fault.model_copy(update={"hint": ""})), hint=fault.hint)
            for fault in error.faults
        ]
    else:
        with people(stderr=True).status("asking"):
            checks = asyncio.run(examine(settings))
    ok = all(check.ok for check in checks)
    if wants_json():
        print_json({"ok": ok, "checks": [check.model_dump(mode="json") for check in checks]})
    else:
        _print(checks)
    return DONE if ok else FAILED


def _print(checks: list[Check]) -> None:
    console = people()
    for check in checks:
        mark = Text("ok   ", style="green") if check.ok else Text("wrong", style="bold red")
        console.print(mark, Text(f"{check.check}: {check.message}"))
        if check.hint:
            console.print(Text(f"      {check.hint}"))


COMMANDS = (doctor,)
