"""The codec server: lets Temporal's UI and command line show what is encrypted, to those who may see it.

The protocol is Temporal's "Codec Server Protocol" (samples-go, folder `codec-server`): POST to a path that ends in
`/encode` or `/decode`, the body a `Payloads` message in protobuf's JSON form, and the answer another; 400 for what
cannot be read. A browser is answered by CORS (the Fetch standard) for the UI's own origin only.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from temporalio.api.common.v1 import Payloads

from workers.codec import JourneysCodec
from workflows.errors import JourneyError, RefusedError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8234
LARGEST_REQUEST = 32 << 20
"""Most bytes of one request: a page of a history, whose payloads Temporal keeps to 2 MiB each."""
PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "POST",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Content-Type, X-Namespace, Authorization",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def codec_application(codec: JourneysCodec, origins: Collection[str], token: str | None) -> web.Application:
    """Make the codec server's application.

    Args:
        codec: Encodes and decodes.
        origins: The UI's origins, such as `http://localhost:8233`; a browser on a page of another is refused, which
            also holds against names that are made to lead here.
        token: What clients send as bearer token (RFC 6750, section 2.1); null asks for none.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin not in origins:
            raise web.HTTPForbidden(text=f"pages of {origin[:200]!r} may not use this codec server")
        try:
            response = await _authorized(request, handler, token)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text, headers=_challenge(error))
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        if origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        return response

    async def preflight(_: web.Request) -> web.Response:
        return web.Response(status=204, headers=PREFLIGHT)

    async def convert(request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        try:
            given = Parse(await request.text(), Payloads())
            found = await (codec.encode if verb == "encode" else codec.decode)(given.payloads)
        except (ParseError, UnicodeDecodeError) as error:
            raise web.HTTPBadRequest(text=f"the body is no Payloads message in JSON: {error}") from error
        except JourneyError as error:
            raise web.HTTPBadRequest(text="\n".join(str(fault) for fault in error.faults)) from error
        return web.Response(text=MessageToJson(Payloads(payloads=found)), content_type="application/json")

    application = web.Application(middlewares=[guarded], client_max_size=LARGEST_REQUEST)
    # Only the last part of the path counts, so that one server can stand at any depth, for each namespace.
    resource = application.router.add_resource("/{above:(?:.*/)?}{verb:encode|decode}")
    resource.add_route(hdrs.METH_POST, convert)
    resource.add_route(hdrs.METH_OPTIONS, preflight)
    return application


async def _authorized(request: web.Request, handler: Handler, token: str | None) -> web.StreamResponse:
    """Answer who sends the token; a preflight carries none, and gives nothing away."""
    if token is not None and request.method != hdrs.METH_OPTIONS:
        sent = request.headers.get(hdrs.AUTHORIZATION, "")
        if not hmac.compare_digest(sent.encode(errors="replace"), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(text="send the token of JOURNEYS_CODEC_TOKEN as: Authorization: Bearer TOKEN")
    return await handler(request)


def _challenge(error: web.HTTPException) -> dict[str, str]:
    return {hdrs.WWW_AUTHENTICATE: "Bearer"} if error.status == web.HTTPUnauthorized.status_code else {}


def is_loopback(host: str) -> bool:
    """Tell whether a host that a server listens on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def run_codec_server(
    codec: JourneysCodec,
    *,
    origins: Collection[str],
    token: str | None = None,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
) -> AsyncIterator[str]:
    """Run the codec server while the body runs.

    Args:
        codec: Encodes and decodes.
        origins: The UI's origins.
        token: What clients send as bearer token.
        host: Where to listen.
        port: 0 for any free one.

    Yields:
        Its address, such as `http://127.0.0.1:8234`.

    Raises:
        RefusedError: It would listen to other machines without a token, or the place is taken.
    """
    if not is_loopback(host) and token is None:
        raise RefusedError(
            f"the codec server shows what is encrypted, and would listen on {host!r} without a token",
            code="no-token",
            hint="set JOURNEYS_CODEC_TOKEN, and put a proxy with TLS before it; or listen on 127.0.0.1",
        )
    runner = web.AppRunner(codec_application(codec, origins, token), access_log=None)
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
        except OSError as error:
            raise RefusedError(
                f"the codec server cannot listen on {host}:{port}: {error.strerror or error}",
                code="cannot-listen",
                hint="choose another port with --port",
            ) from error
        bound: int = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound}"
    finally:
        await runner.cleanup()
