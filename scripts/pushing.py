"""Commands on pushes to come: `journeys push preview|test|rates|rate`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import click
from rich.text import Text

from activities.push.previewing import PushPreview, preview_push
from scripts.output import json_option, people, print_json, print_table, wants_json
from workers.documents import name_and_version
from workers.engine import Engine
from workers.providers import open_providers


@click.group()
def push() -> None:
    """Preview and test pushes, and set the rates of providers."""


@push.command()
@click.argument("journey")
@click.argument("element")
@click.argument("user")
@json_option
def preview(journey: str, element: str, user: str) -> None:
    """Show what a user's devices would get, and send nothing.

    From the push ELEMENT of JOURNEY, for each reachable device of USER.
    """
    _show(asyncio.run(_preview(journey, element, user, send=False)))


@push.command()
@click.argument("journey")
@click.argument("element")
@click.argument("user")
@json_option
def test(journey: str, element: str, user: str) -> None:
    """Send a push to one user now, as a test.

    The push ELEMENT of JOURNEY goes to the devices of USER, and no number counts it.
    """
    _show(asyncio.run(_preview(journey, element, user, send=True)))


async def _preview(journey: str, element: str, user: str, *, send: bool) -> PushPreview:
    with Engine.open() as engine:
        base, version = name_and_version(journey)
        found = engine.stores.catalogue.find("journey", base, version)
        saved = engine.stores.catalogue.journey(found.digest)
        async with open_providers(engine.settings) as providers:
            return await preview_push(engine.stores, providers, saved, element, user, datetime.now(UTC), send=send)


def _show(found: PushPreview) -> None:
    if wants_json():
        print_json(found)
        return
    console = people()
    console.print(Text(f"{found.user_id} at {found.element} of {found.journey}: {found.outcome} ({found.because})"))
    for device in found.devices:
        console.print(
            Text(f"\n{device.device_id}, {device.provider}, in {device.message.language or 'the base language'}")
        )
        shown = device.message.model_dump(exclude_none=True, exclude={"language"}, exclude_defaults=True)
        print_table(("  ", ""), [(f"  {name}", value) for name, value in shown.items()])
        for line in (device.problem, device.answer):
            if line:
                console.print(Text(f"  {line}"))


@push.command()
@json_option
def rates() -> None:
    """List each provider's limit, and messages per minute."""
    with Engine.open() as engine:
        found = engine.stores.rates.current()
    if wants_json():
        print_json({"rates": [one.model_dump(mode="json") for one in found]})
    else:
        print_table(
            ("provider", "at most a second", "last 60 s", "messages per minute, the newest first"),
            [
                (
                    one.provider,
                    "no limit" if one.per_second is None else one.per_second,
                    one.last_minute,
                    " ".join(str(minute.messages) for minute in one.minutes),
                )
                for one in found
            ],
        )


@push.command()
@click.argument("provider")
@click.argument("per_second", type=click.FloatRange(min=1), required=False)
@json_option
def rate(provider: str, per_second: float | None) -> None:
    """Limit the messages a provider gets in a second.

    PROVIDER gets at most PER_SECOND, over all workers; without a number, as many as there are.
    """
    with Engine.open() as engine:
        engine.stores.rates.set_limit(provider, per_second)
    if wants_json():
        print_json({"provider": provider, "per_second": per_second})
    else:
        people().print(Text(f"{provider}: {'no limit' if per_second is None else f'at most {per_second:g} a second'}"))


COMMANDS = (push,)
