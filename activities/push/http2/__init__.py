"""A small HTTP/2 client over TLS: posts a request once and says what is known about it."""

from activities.push.http2.client import Http2Client
from activities.push.http2.exchange import Header, Http2Error, NotSent, OutcomeUnknown, Response

__all__ = ["Header", "Http2Client", "Http2Error", "NotSent", "OutcomeUnknown", "Response"]
