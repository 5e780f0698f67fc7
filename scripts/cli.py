"""`journeys`: the command line."""

from __future__ import annotations

import signal
import sys
import traceback

import click

from scripts import (
    codec_server,
    doctor,
    documents,
    explaining,
    operating,
    people,
    planning,
    pushing,
    rehearsing,
    running,
    segments,
    tables,
    upkeep,
    watching,
)
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="targeted-push", prog_name="journeys")
@json_option
def journeys() -> None:
    """Targeted push journeys on Temporal: one durable workflow per user.

    Documents are checked, saved and started; `journeys dev` runs all that is needed on one machine.
    A name that ends in .yaml, .yml or .json, or holds a `/`, is a file.
    """


for command in (
    *documents.COMMANDS,
    *planning.COMMANDS,
    *rehearsing.COMMANDS,
    *tables.COMMANDS,
    *segments.COMMANDS,
    *upkeep.COMMANDS,
    *running.COMMANDS,
    *operating.COMMANDS,
    *pushing.COMMANDS,
    *watching.COMMANDS,
    *people.COMMANDS,
    *codec_server.COMMANDS,
    *explaining.COMMANDS,
    *doctor.COMMANDS,
):
    journeys.add_command(command)


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 refused, 130 interrupted."""
    sys.exit(run())


def run() -> int:
    """Run one command and give its exit status."""
    signal.siginterrupt(signal.SIGINT, True)  # polars' handler would go on reading a pipe after a Ctrl-C
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
