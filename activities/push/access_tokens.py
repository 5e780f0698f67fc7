"""Access tokens of a Google service account: had by google-auth in a thread, never in the way of what is being sent."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC
from http.client import HTTPException
from types import MappingProxyType
from typing import Any, Final

from google.auth import transport
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.oauth2.service_account import Credentials

from activities.push.provider import Answer, Verdict

REFRESH_AHEAD: Final = 300.0
"""Seconds before its end at which an access token is replaced."""
REFRESH_PAUSE: Final = 10.0
"""Seconds for which a failed refresh is told to all who ask, before another is tried."""
REFUSED_PAUSE: Final = 60.0
"""Seconds in which a refused access token is replaced once only: if the next is refused too, it is no matter of age."""
TOKEN_TIMEOUT: Final = 10.0
"""Most seconds for one request of a token."""


class AccessTokens:
    """The OAuth tokens of a service account: had in a thread, one request at a time, a failure shared by all.

    Args:
        credentials: The service account's.
        tls: How the token server is checked.
        clock: Seconds since 1970.
    """

    def __init__(self, credentials: Credentials, tls: ssl.SSLContext, clock: Callable[[], float]) -> None:
        self._credentials = credentials
        self._transport = _Transport(tls)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._ends = float("-inf")
        self._failure: tuple[float, Answer] | None = None
        self._replaced_at = float("-inf")

    async def current(self) -> str | Answer:
        """Give a token; an answer instead where none can be had. One that is about to end serves until it does."""
        if self._fresh(REFRESH_AHEAD) or (self._fresh(0) and self._lock.locked()):
            return self._token
        async with self._lock:
            if self._fresh(REFRESH_AHEAD):
                return self._token
            failure = await self._refresh()
            return self._token if self._fresh(0) or failure is None else failure

    async def another(self, refused: str) -> str | Answer | None:
        """Give another token than one that FCM refused; null when one was refused a short while ago as well."""
        async with self._lock:
            if refused != self._token:
                return self._token
            if 0 <= self._clock() - self._replaced_at < REFUSED_PAUSE:
                return None
            self._replaced_at = self._clock()
            return await self._refresh() or self._token

    def _fresh(self, ahead: float) -> bool:
        return bool(self._token) and self._clock() < self._ends - ahead

    async def _refresh(self) -> Answer | None:
        """Have a new token, under the lock."""
        now = self._clock()
        if self._failure is not None and 0 <= now - self._failure[0] < REFRESH_PAUSE:
            return self._failure[1]
        try:
            await asyncio.to_thread(self._credentials.refresh, self._transport)
        except (GoogleAuthError, ValueError, TypeError) as error:
            # Nothing was sent to FCM. Only the server's own word that the account is wrong makes it a matter of keys.
            wrong = isinstance(error, RefreshError) and not error.retryable
            detail = f"no access token: {error.args[0] if error.args else error}"
            answer = Answer(Verdict.CONFIG_BAD, detail) if wrong else Answer(Verdict.RETRY, detail, REFRESH_PAUSE)
            self._failure = self._clock(), answer
            return answer
        self._failure = None
        expiry = self._credentials.expiry
        self._token = str(self._credentials.token)
        self._ends = self._clock() + 3_600 if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return None


class _TokenReply(transport.Response):
    """What google-auth reads of an answer."""

    status = 0
    headers: Mapping[str, str] = MappingProxyType({})
    data = b""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data


class _Transport(transport.Request):
    """How google-auth asks for tokens: by the standard library, trusting whom the sending trusts."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        handler = urllib.request.HTTPSHandler(context=tls)
        self._opener = urllib.request.build_opener(handler, urllib.request.ProxyHandler({}))

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> _TokenReply:
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=timeout or TOKEN_TIMEOUT) as found:
                return _TokenReply(found.status, dict(found.headers), found.read())
        except urllib.error.HTTPError as error:
            with error:
                return _TokenReply(error.code, dict(error.headers), error.read())
        except (OSError, HTTPException) as error:
            raise TransportError(str(error)) from error  # type: ignore[no-untyped-call]
