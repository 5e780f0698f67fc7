"""Commands that operate running journeys: pause, resume, finish, revise, enter, remove, winner, archive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from scripts.output import counted, json_option, people, print_json, print_table, wants_json
from workers.connecting import connect
from workers.engine import Engine
from workers.operating import Operator
from workflows.contracts import (
    EnterReport,
    EnterRequest,
    FinishRequest,
    LifeReport,
    MoveRequest,
    ResumeRequest,
    ReviseRequest,
    TakeOutRequest,
    UserGiven,
)
from workflows.documents import JourneyDocument, SplitTest
from workflows.errors import NotFoundError, RefusedError

INSIDE = {
    "keep": "those inside finish their version",
    "move": "those inside go on in it",
    "end": "those inside leave",
}
"""What a revision does with those inside, for people."""

Report = TypeVar("Report", LifeReport, EnterReport)


def _operate(journey: str, work: Callable[[Operator], Awaitable[Report]]) -> Report:
    """Have one turn taken, on a journey that exists."""

    async def run() -> Report:
        with Engine.open() as engine:
            await asyncio.to_thread(engine.stores.catalogue.find, "journey", journey)
            return await work(Operator(await connect(engine.settings), journey))

    return asyncio.run(run())


def _tell(report: LifeReport, done: str) -> None:
    if wants_json():
        print_json(report)
        return
    people().print(f"[bold]{report.journey}[/] v{report.version} {done}; {counted(report.inside, 'user')} inside")


@click.command()
@click.argument("journey")
@json_option
def pause(journey: str) -> None:
    """Freeze a running journey.

    When this returns, nothing is sent and nobody enters. Nobody inside is lost.
    """
    _tell(_operate(journey, lambda operator: operator.pause()), "is paused")


@click.command()
@click.argument("journey")
@click.option(
    "--due",
    type=click.Choice(["now", "shift", "skip"]),
    default="now",
    show_default=True,
    help="What fell due in the pause: goes out now, as much later as the pause lasted, or is skipped.",
)
@json_option
def resume(journey: str, due: Any) -> None:
    """Let a paused journey go on."""
    report = _operate(journey, lambda operator: operator.resume(ResumeRequest(due=due)))
    _tell(report, f"goes on; {counted(report.signalled, 'run')} that the pause held go on too")


@click.command()
@click.argument("journey")
@click.option(
    "--inside",
    type=click.Choice(["keep", "end"]),
    default="keep",
    show_default=True,
    help="Those inside go on to their ends, or leave at once.",
)
@json_option
def finish(journey: str, inside: Any) -> None:
    """Let nobody enter any more."""
    _tell(_operate(journey, lambda operator: operator.finish(FinishRequest(inside=inside))), "is finished")


@click.command()
@click.argument("journey")
@click.option(
    "--inside",
    type=click.Choice(["keep", "move", "end"]),
    help="Those inside finish their version, go on in the new one, or leave. Left out: only says who is inside.",
)
@click.option("--map", "mapping", multiple=True, metavar="OLD=NEW", help="The element that takes another's place.")
@click.option("--enter", is_flag=True, help="The new version's audience enters now, as the re-entry rule lets it.")
@json_option
def revise(journey: str, inside: Any, mapping: tuple[str, ...], enter: bool) -> None:
    """Have another version take over a running journey.

    JOURNEY is a file, which is checked and saved first, or a saved journey as NAME or NAME@3. Without --inside nothing
    is revised: it says how many are inside, by element.
    """
    pairs = dict(_pair(one) for one in mapping)

    async def run() -> LifeReport:
        with Engine.open() as engine:
            if inside is None:
                return await asyncio.to_thread(engine.inside, journey)
            found = await asyncio.to_thread(engine.prepare, journey)
            operator = Operator(await connect(engine.settings), found.name)
            request = ReviseRequest(version=found.version, inside=inside, mapping=pairs, enter=enter)
            return await operator.revise(request)

    report = asyncio.run(run())
    if wants_json():
        print_json(report)
        return
    if report.elements:
        print_table(("inside at", "users"), list(report.elements.items()))
    if inside is None:
        people().print("nothing is revised: say what becomes of them, with --inside keep, move or end")
    else:
        _tell(report, f"takes over{' and is paused' if report.state == 'paused' else ''}; {INSIDE[inside]}")


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise RefusedError(f"--map {text!r}: write OLD=NEW, the ids of two elements", code="usage")
    return old, new


@click.command()
@click.argument("journey")
@click.option("--user", "users", multiple=True, required=True, help="Who enters; may be given many times.")
@click.option("--entry", default="", help="Which API entry; left out: the only one.")
@click.option("--key", default="", help="The key of a keyed journey.")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A value for templates and conditions.")
@json_option
def enter(journey: str, users: tuple[str, ...], entry: str, key: str, values: tuple[str, ...]) -> None:
    """Let users enter a running journey by its API entry."""
    given = dict(value_of(one) for one in values)
    request = EnterRequest(users=[UserGiven(user_id=user, key=key, values=given) for user in users], entry=entry)
    report = _operate(journey, lambda operator: operator.enter(request))
    if wants_json():
        print_json(report)
        return
    for workflow_id in report.entered:
        people().print(f"entered: {workflow_id}", markup=False)
    for user, reason in report.refused.items():
        people().print(f"refused: {user}: {reason}", markup=False)


def value_of(text: str) -> tuple[str, Any]:
    """Read `NAME=VALUE`; a value that is JSON is taken as such, any other is a text.

    Raises:
        RefusedError: There is no name, or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RefusedError(f"--set {text!r}: write NAME=VALUE", code="usage")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@click.command()
@click.argument("journey")
@click.argument("user")
@click.option("--key", default=None, help="Only the run of this key.")
@click.option("--reason", default="removed", show_default=True, help="What `stats` and `explain` say.")
@json_option
def remove(journey: str, user: str, key: str | None, reason: str) -> None:
    """Take a user out of a running journey, wherever he is."""
    request = TakeOutRequest(user_id=user, key=key, reason=reason)
    report = _operate(journey, lambda operator: operator.remove(request))
    _tell(report, f"has let go of {user} ({counted(report.signalled, 'run')})")


@click.command()
@click.argument("journey")
@click.argument("user")
@click.argument("element")
@click.option("--key", default=None, help="Only the run of this key.")
@json_option
def move(journey: str, user: str, element: str, key: str | None) -> None:
    """Have a user go on at another element.

    USER, wherever he is inside JOURNEY, goes on at ELEMENT of the version that runs.
    """
    request = MoveRequest(user_id=user, element=element, key=key)
    report = _operate(journey, lambda operator: operator.move(request))
    _tell(report, f"has {user} go on at {element!r} ({counted(report.signalled, 'run')})")


@click.command()
@click.argument("journey")
@click.argument("element")
@click.argument("variant")
@json_option
def winner(journey: str, element: str, variant: str) -> None:
    """Choose the variant of a split test that everybody gets."""
    with Engine.open() as engine:
        document = engine.stores.catalogue.find("journey", journey).document
        test = document.elements.get(element) if isinstance(document, JourneyDocument) else None
        if not isinstance(test, SplitTest):
            raise NotFoundError(f"{journey!r} has no split test {element!r}")
        if variant not in test.branches:
            raise NotFoundError(f"{element!r} has no variant {variant!r}; it has: {', '.join(test.branches)}")
        engine.stores.winners.choose(journey, element, variant)
    if wants_json():
        print_json({"journey": journey, "element": element, "variant": variant})
    else:
        people().print(f"everybody who reaches {element!r} gets {variant!r}; workers know within ten seconds")


@click.command()
@click.argument("journey")
@click.option("--undo", is_flag=True, help="Take it out again.")
@json_option
def archive(journey: str, undo: bool) -> None:
    """Put away a journey that does not run.

    It is listed as archived, and cannot be started.
    """
    with Engine.open() as engine:
        saved = engine.stores.catalogue.find("journey", journey)
        now = datetime.now(UTC)
        before, state = asyncio.run(engine.stores.ledger.archive(journey, saved.version, saved.digest, now, undo=undo))
    if state == before and (undo or state != "archived"):
        raise RefusedError(f"the journey {journey!r} is {state}: it cannot be {'taken out' if undo else 'put away'}")
    if wants_json():
        print_json({"journey": journey, "state": state})
    else:
        people().print(f"[bold]{journey}[/] is {state}")


COMMANDS = (pause, resume, finish, revise, enter, remove, move, winner, archive)
