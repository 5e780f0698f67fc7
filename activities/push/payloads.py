"""What the adapters make bodies from: deep merging of a platform's overrides, and writing within a limit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from activities.push.provider import PayloadTooLarge


def merged(made: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge deeply, as RFC 7396 does: a mapping into a mapping, null takes away, anything else replaces."""
    found = dict(made)
    for name, value in overrides.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping):
            below = found.get(name)
            found[name] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            found[name] = value
    return found


def given(**values: Any) -> dict[str, Any]:
    """Keep the values that are there: providers take a null for a value of the wrong kind."""
    return {name: value for name, value in values.items() if value is not None and value != {}}


def written(payload: Mapping[str, Any]) -> bytes:
    """Write a body as JSON, without a byte too many."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def within(payload: Mapping[str, Any], limit: int, provider: str) -> bytes:
    """Write a body as JSON that the provider takes.

    Args:
        payload: The body.
        limit: Most bytes of it.
        provider: Whose limit it is, for people.

    Raises:
        PayloadTooLarge: It takes more.
    """
    body = written(payload)
    if len(body) > limit:
        raise PayloadTooLarge(f"the message takes {len(body):,} bytes, and {provider} takes {limit:,}: shorten it")
    return body
