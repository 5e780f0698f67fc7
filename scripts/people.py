"""Commands on one person: `journeys user id|export|erase`."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from temporalio.client import Client

from activities.erasure import ErasureReport, PersonalData, erase_user, find_user
from scripts.explaining import require_user
from scripts.output import json_option, people, print_json, print_table, wants_json
from workers.connecting import connect
from workers.engine import Engine
from workflows.errors import RefusedError

without_runs = click.option("--without-runs", is_flag=True, help="Leave Temporal out, where no server can be reached.")


@click.group()
def user() -> None:
    """Find, give out and erase what is kept of one user."""


@user.command("id")
@click.argument("user_id", metavar="USER")
@click.argument("journey", required=False)
@click.option("--key", default="", help="The key of a keyed run.")
@json_option
def id_command(user_id: str, journey: str | None, key: str) -> None:
    """Tell what Temporal knows a user by.

    The value of the search attribute JourneyUserId, and the workflow id in JOURNEY.
    """
    with Engine.open() as engine:
        ids = engine.stores.ids
        if journey is not None:
            engine.stores.catalogue.find("journey", journey)
        found: dict[str, Any] = {
            "user_id": user_id,
            "search_attribute": ids.name(user_id),
            "workflow_id": None if journey is None else ids.workflow_id(journey, user_id, key),
        }
    if wants_json():
        print_json(found)
        return
    people().print(f'JourneyUserId = "{found["search_attribute"]}"', markup=False)
    if journey is not None:
        people().print(str(found["workflow_id"]), markup=False)


@user.command()
@click.argument("user_id", metavar="USER")
@without_runs
@json_option
def export(user_id: str, without_runs: bool) -> None:
    """Give out all that is kept of a user.

    Rows of the tables and the ledger, audiences, and runs; --json prints them whole.
    """
    found = asyncio.run(_export(user_id, without_runs))
    if wants_json():
        print_json(found)
    else:
        _print_found(found)


async def _export(user_id: str, without_runs: bool) -> PersonalData:
    with Engine.open() as engine:
        client = await _client(engine, without_runs)
        found = await find_user(engine.stores, client, user_id, engine.settings.rejects)
        if not found.counts:
            require_user(engine, user_id)
        return found


@user.command()
@click.argument("user_id", metavar="USER")
@click.option(
    "--vacuum",
    is_flag=True,
    help="Also remove at once what older versions of the tables still hold; they can be read no more. Left out: it "
    "goes with `journeys upkeep`.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@without_runs
@json_option
def erase(user_id: str, vacuum: bool, yes: bool, without_runs: bool) -> None:
    """Erase all that is kept of a user.

    Rows are deleted, runs are terminated and deleted, and the ledger keeps numbers that name nobody.
    """
    if not yes and wants_json():
        raise RefusedError("--json asks nothing: confirm with --yes", code="usage")
    report = asyncio.run(_erase(user_id, vacuum, yes, without_runs))
    if wants_json():
        print_json(report)
        return
    print_table(("erased from", "number"), list(report.erased.items()))
    if not report.runs:
        people().print("runs in Temporal were left as they are")
    if not report.vacuumed:
        people().print("older versions of the tables hold the user until `journeys upkeep` removes them")


async def _erase(user_id: str, vacuum: bool, yes: bool, without_runs: bool) -> ErasureReport:
    with Engine.open() as engine:
        client = await _client(engine, without_runs)
        rejects = engine.settings.rejects
        if not yes:
            _print_found(await find_user(engine.stores, client, user_id, rejects))
            click.confirm(f"Erase {user_id!r} for ever?", abort=True, err=True)
        with people(stderr=True).status("erasing"):
            return await erase_user(engine.stores, client, user_id, rejects, vacuum=vacuum)


async def _client(engine: Engine, without_runs: bool) -> Client | None:
    return None if without_runs else await connect(engine.settings)


def _print_found(found: PersonalData) -> None:
    print_table(("kept in", "number"), list(found.counts.items()))
    for run in found.runs or []:
        people().print(f"{run.status}: {run.workflow_id} {run.run_id}", markup=False)


COMMANDS = (user,)
