"""The webhook activity: an object about the user is posted to another system, signed, with one key for all tries."""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from temporalio import activity
from yarl import URL

from activities.elements.passing import Answer, Case, Passing
from activities.faults import as_failures
from activities.push.http1 import Http1Client, tls_context
from activities.push.messages import MissingValue, render_data
from activities.push.provider import Answer as Reply
from activities.push.provider import Verdict
from activities.push.webhook import meaning_of, signature
from workflows.contracts import Outcome, Visit
from workflows.documents import Webhook
from workflows.errors import PushError, as_application_error

PATIENCE = timedelta(hours=1)
"""How long a webhook is tried again."""
RETRY_SECONDS = 10.0

ACCEPTED, REFUSED, GAVE_UP, VALUE_MISSING = "accepted", "refused", "gave-up", "skipped: value-missing"
UNSIGNED = b"unsigned"
"""Signs where no secret is set: the receiver was given none, and checks nothing."""


class OutsideOnly(AbstractResolver):
    """Looks names up, and keeps from reaching inside the network: a document is no reason to trust an address.

    Args:
        allowed: Hosts that may be reached wherever they are.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self._resolver: ThreadedResolver | None = None

    async def leads_outside(self, host: str) -> bool:
        """Tell whether a host may be reached, by its address or by those its name has; a name without any may."""
        if host.lower() in self._allowed:
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")).is_global
        except ValueError:
            pass
        try:
            return any(ipaddress.ip_address(one["host"]).is_global for one in await self._looked_up(host, 0))
        except OSError:
            return True  # not found now: posting tells, and tries again

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the addresses of a host that may be reached.

        Raises:
            OSError: There are none.
        """
        found = await self._looked_up(host, port, family)
        if host.lower() in self._allowed:
            return found
        outside = [one for one in found if ipaddress.ip_address(one["host"]).is_global]
        if not outside:
            raise OSError(f"{host!r} leads inside the network: name it in JOURNEYS_WEBHOOK_HOSTS to allow it")
        return outside

    async def _looked_up(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._resolver is None:  # it belongs to the loop that it is made in
            self._resolver = ThreadedResolver()
        return await self._resolver.resolve(host, port, family)

    async def close(self) -> None:
        """Let go of what looks names up."""
        if self._resolver is not None:
            await self._resolver.close()


class Outside:
    """Posts to other systems, outside the network unless a host is named. For one event loop.

    Args:
        secret: Signs what is posted; null for none.
        hosts: Hosts that may be reached although they are inside the network.
        ca_file: Certificates to trust beside the system's.
    """

    def __init__(self, secret: str | None = None, hosts: Collection[str] = (), ca_file: Path | None = None) -> None:
        self._secret = secret.encode() if secret else UNSIGNED
        self._resolver = OutsideOnly(hosts)
        self._client = Http1Client(tls_context(ca_file), resolver=self._resolver)

    async def leads_outside(self, host: str) -> bool:
        """Tell whether a host may be reached."""
        return await self._resolver.leads_outside(host)

    async def post(self, url: URL, payload: Mapping[str, Any], *, key: str) -> Reply:
        """Post an object once, and say what is known about it."""
        body, timestamp = json.dumps(payload, ensure_ascii=False).encode(), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "Push-Timestamp": timestamp,
            "Push-Signature": f"sha256={signature(self._secret, timestamp, body)}",
        }
        found = await self._client.post(url, body, headers)
        if isinstance(found, Reply):
            return found
        return meaning_of(found.status).answer(f"{found.status} {found.text()}".strip(), found, time.time())

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()


class WebhookActivities:
    """Tells other systems about users.

    Args:
        passing: Decides whether an element may go ahead.
        outside: Posts to other systems.
    """

    def __init__(self, passing: Passing, outside: Outside | None = None) -> None:
        self._passing = passing
        self._outside = outside or Outside()

    @activity.defn(name="webhook")
    @as_failures
    async def webhook(self, visit: Visit) -> Outcome:
        """Post an object about the user.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch. A user whose webhook is refused or given up goes on too, with the reason.

        Raises:
            ApplicationError: The other side is not ready, or a store cannot be reached, which Temporal retries; or the
                version is unknown, which it does not.
        """
        return await self._passing.pass_by(visit, Webhook, self._post)

    async def _post(self, case: Case[Webhook]) -> Answer:
        visit, element = case.visit, case.element
        try:
            data = render_data(element.data, await case.template_values())
        except MissingValue as missing:
            return _answer(element, VALUE_MISSING, str(missing))
        url = URL(element.url)
        if not await self._outside.leads_outside(url.host or ""):
            return _answer(element, REFUSED, f"{url.host!r} is inside the network")
        await case.require_open()
        about = {"journey": visit.journey, "element": visit.element, "user_id": visit.user_id}
        reply = await self._outside.post(
            url, {**data, **about}, key=str(uuid5(NAMESPACE_URL, f"{visit.passage}/{visit.step}"))
        )
        match reply.verdict:
            case Verdict.ACCEPTED:
                return _answer(element, ACCEPTED, reply.detail)
            case Verdict.RETRY | Verdict.NOT_SENT | Verdict.UNKNOWN:
                # The key lets the other side tell a repeat, so what is unknown is tried again.
                if datetime.now(UTC) - activity.info().scheduled_time >= PATIENCE:
                    return _answer(element, GAVE_UP, reply.detail)
                raise as_application_error(
                    PushError(f"the webhook {url.host!r} does not answer well: {reply.detail}. It is tried again"),
                    next_retry_delay=timedelta(seconds=reply.retry_after or RETRY_SECONDS),
                )
            case _:
                return _answer(element, REFUSED, reply.detail)


def _answer(element: Webhook, outcome: str, because: str) -> Answer:
    if element.branches is None:
        return Answer("next", because, outcome=outcome)
    return Answer("accepted" if outcome == ACCEPTED else "not_accepted", because, outcome=outcome)
