"""`journeys codec-server`: shows encrypted payloads in Temporal's UI and command line."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import click

from scripts.output import json_option, people, print_json, wants_json
from workers.codec import open_codec
from workers.codec_server import DEFAULT_HOST, DEFAULT_PORT, run_codec_server
from workers.connecting import embedded_server
from workers.serving import until_told_to_stop
from workers.settings import Settings, load_settings
from workflows.errors import RefusedError


@click.command("codec-server")
@click.option("--host", default=DEFAULT_HOST, show_default=True, help="Where to listen; off loopback needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Address of Temporal's UI; may be given several times. Left out: the UI of `journeys dev`.",
)
@json_option
def codec_server(host: str, port: int, origins: tuple[str, ...]) -> None:
    """Show encrypted payloads in Temporal's UI.

    Until Ctrl-C. Serves /encode and /decode with the keys of JOURNEYS_PAYLOAD_KEYS to pages of the UI, and to
    `temporal --codec-endpoint`.
    """
    asyncio.run(_serve(load_settings(), host, port, origins))


async def _serve(settings: Settings, host: str, port: int, origins: tuple[str, ...]) -> None:
    codec = open_codec(settings)
    if codec is None:
        raise RefusedError(
            "there is nothing to decode: no payload keys are set",
            code="no-keys",
            hint="set JOURNEYS_PAYLOAD_KEYS as for the workers",
        )
    token = settings.codec_token.get_secret_value() if settings.codec_token is not None else None
    allowed = [_origin(one) for one in origins] or _embedded_origins(settings)
    async with run_codec_server(codec, origins=allowed, token=token, host=host, port=port) as address:
        stopping = asyncio.create_task(until_told_to_stop())
        await asyncio.sleep(0)  # it listens to signals before anybody is told that it serves
        if wants_json():
            print_json({"address": address, "origins": allowed, "token": token is not None})
        else:
            pages = ", ".join(allowed) or "no page (name the UI with --origin)"
            people().print(f"codec server at {address}, for {pages}; Ctrl-C stops it", markup=False)
        await stopping


def _origin(url: str) -> str:
    """Read the origin of an address: scheme, host and port, as a browser sends it (RFC 6454, section 7)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise RefusedError(f"{url!r} is no address of a page: write http://localhost:8233", code="usage")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _embedded_origins(settings: Settings) -> list[str]:
    """Give the origins that the embedded UI may be opened by."""
    embedded = embedded_server(settings)
    if embedded is None:
        return []
    return [embedded.ui, embedded.ui.replace("127.0.0.1", "localhost")]


COMMANDS = (codec_server,)
