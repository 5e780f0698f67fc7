"""`journeys`: the command line."""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections import UserDict
from importlib import import_module
from typing import Any

import click

from scripts.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    json_option,
    print_failure,
    print_faults,
    print_faults_json,
    wants_json,
)
from workflows.errors import Fault, JourneyError

COMMANDS = {
    "archive": ("operating", "Put away a journey that does not run."),
    "check": ("documents", "Check documents; every fault is told, nothing is saved."),
    "clone": ("planning", "Save a journey under a new name."),
    "codec-server": ("codec_server", "Show encrypted payloads in Temporal's UI."),
    "dev": ("running", "Run the embedded Temporal server and a worker."),
    "diff": ("planning", "Show two versions side by side, and who would go elsewhere."),
    "doctor": ("doctor", "Check what journeys need, and tell how to mend it."),
    "draw": ("watching", "Draw a journey, and with --stats what became of everybody."),
    "enter": ("operating", "Let users enter a running journey by its API entry."),
    "event": ("running", "Take an event of a user."),
    "explain": ("explaining", "Tell why a user got a push of a journey, or not."),
    "finish": ("operating", "Let nobody enter any more."),
    "import": ("tables", "Import users, devices or events from a file."),
    "list": ("documents", "List the saved journeys and the state of each."),
    "move": ("operating", "Have a user go on at another element."),
    "new": ("project", "Write a first journey, ready to run, into a folder."),
    "pause": ("operating", "Freeze a running journey."),
    "plan": ("planning", "Tell exactly who would enter now, and what would be sent."),
    "push": ("pushing", "Preview and test pushes, and set the rates of providers."),
    "pushes": ("explaining", "List and count pushes, newest first."),
    "remove": ("operating", "Take a user out of a running journey, wherever he is."),
    "resume": ("operating", "Let a paused journey go on."),
    "revise": ("operating", "Have another version take over a running journey."),
    "runs": ("watching", "List runs and where each user is, those under way first."),
    "save": ("documents", "Check documents and save each as a new version, all or none."),
    "schema": ("project", "Print the JSON Schema of a document, for editors."),
    "segment": ("segments", "List, import, save, preview and explain segments."),
    "settings": ("project", "List each setting, its origin and its meaning."),
    "show": ("documents", "Show a saved journey."),
    "start": ("running", "Start a journey."),
    "stats": ("watching", "Count who entered, took each branch, was pushed, and left."),
    "tables": ("tables", "List the audience tables, their columns and types."),
    "test": ("rehearsing", "Rehearse the cases of a file."),
    "try": ("rehearsing", "Have one user pass a journey at once; nothing is sent."),
    "upkeep": ("upkeep", "Compact the audience tables."),
    "user": ("people", "Find, give out and erase what is kept of one user."),
    "versions": ("documents", "List all versions of a journey, newest first."),
    "winner": ("operating", "Choose the variant of a split test that everybody gets."),
    "worker": ("running", "Run a production worker, the same as `python -m workers`."),
}
"""The module of each command, and the first sentence of its help: known without loading what the command needs."""


class _Loaded(UserDict[str, Any]):
    """The commands by name, each loaded when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = self.data[name]
        gc.disable()  # a quarter of the time that loading takes
        try:
            found: tuple[click.Command, ...] = import_module(f"scripts.{module}").COMMANDS
        finally:
            gc.enable()
        signal.siginterrupt(signal.SIGINT, True)  # polars, once loaded, would go on reading a pipe after a Ctrl-C
        return next(command for command in found if command.name == name)


class _Journeys(click.Group):
    """Lists its commands by their first sentences, so that `--help` loads none of them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in sorted(COMMANDS.items())])


@click.group(
    cls=_Journeys,
    commands=_Loaded(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="targeted-push", prog_name="journeys")
@json_option
def journeys() -> None:
    """Targeted push journeys on Temporal: one durable workflow per user.

    Documents are checked, saved and started; `journeys dev` runs all that is needed on one machine.
    A name that ends in .yaml, .yml or .json, or holds a `/`, is a file.
    """


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 refused, 130 interrupted."""
    sys.exit(run())


def run() -> int:
    """Run one command and give its exit status."""
    try:
        status = journeys.main(prog_name="journeys", standalone_mode=False)
        return status if isinstance(status, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return REFUSED
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "journeys"
        _tell(Fault(code="usage", message=error.format_message(), hint=f"see: {command} --help"))
        return REFUSED
    except JourneyError as error:
        return print_failure(error)
    except (click.Abort, KeyboardInterrupt):
        _tell(Fault(code="interrupted", message="interrupted"))
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        _tell(
            Fault(code="internal", message=f"{type(error).__name__}: {error}", hint="this is a bug: please report it")
        )
        return FAILED


def _tell(fault: Fault) -> None:
    if wants_json():
        print_faults_json([fault])
    else:
        print_faults([fault], label="error")


if __name__ == "__main__":
    main()
