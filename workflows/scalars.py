"""The scalars of documents: each stays the text that its author wrote, and is checked where its type is known.

The models that use them say what a text means: a duration, a zone, a word for true. The rest is read by the type of
the column it is compared with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, TypeAlias
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

TRUE_WORDS = frozenset({"true", "yes", "1"})
FALSE_WORDS = frozenset({"false", "no", "0"})

DURATION_LIMIT = timedelta(days=36_525)
"""A century: no more is meant, and no instant leaves the calendar when it is added or taken away."""

WHOLE_LIMIT = 1_000_000_000
"""Most that a count may ask for."""

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_FACTOR = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)


class Unwritten(str):
    """The text of a value of which nothing was written, as behind `is:`; whoever means the empty text writes `''`."""

    __slots__ = ()


def refusal(code: str, text: str) -> PydanticCustomError:
    """Word a validation error, whole: pydantic puts nothing before it.

    Args:
        code: What kind of fault, in kebab-case.
        text: What is wrong, quoting the value.

    Returns:
        The error to raise from a validator.
    """
    return PydanticCustomError(code, "{text}", {"text": text})


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Give the names that somebody who wrote another one may have meant.

    Args:
        name: What was written.
        names: What exists.

    Returns:
        At most three names, the nearest first; upper and lower case count as the same.
    """
    folded: dict[str, str] = {}
    for known in names:
        folded.setdefault(known.casefold(), known)
    return [folded[match] for match in get_close_matches(name.casefold(), folded, n=3)]


def quoted(names: Iterable[str]) -> str:
    """List names for a message: `plan`, `age`."""
    return ", ".join(f"`{name}`" for name in names)


def duration(text: str) -> timedelta:
    """Read a duration.

    Args:
        text: Weeks, days, hours, minutes, seconds, from the greatest down: `90s`, `15m`, `12h`, `30d`, `1d12h`.

    Returns:
        The time it lasts; a day is 24 hours.

    Raises:
        ValueError: The text is no duration, or over a century.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration: write `90s`, `15m`, `12h`, `30d`, `2w` or `1d12h`")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    # Whole seconds are compared first: a timedelta of them might overflow.
    if (((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds > DURATION_LIMIT.total_seconds():
        raise ValueError(f"{text!r} is over a century: the longest duration is `{DURATION_LIMIT.days}d`")
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def is_true(text: str) -> bool:
    """Whether a text is one of the words for true: `true`, `yes`, `1`, in any case."""
    return text.strip().lower() in TRUE_WORDS


def _as_text(value: Any) -> Any:
    """Turn what a JSON or Python client sends natively into the text that a YAML author writes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value
    if value is None:
        raise refusal("no-value", "null is no value: `is_not_set: true` finds what is missing")
    if isinstance(value, list | tuple | set):
        raise refusal("one-value", f"one value is expected, not the list {value!r}: `in` and `not_in` take lists")
    raise refusal("one-value", f"one value is expected, not {value!r}")


def _checked_duration(text: str) -> str:
    try:
        duration(text)
    except ValueError as error:
        raise refusal("duration", str(error)) from None
    return text


def _only_true(text: str) -> str:
    if not is_true(text):
        raise refusal("only-true", f"{text!r}: only `true` is meant here; `not` around the condition asks the opposite")
    return text


def _boolean(text: str) -> str:
    if text.strip().lower() not in TRUE_WORDS | FALSE_WORDS:
        raise refusal("boolean", f"{text!r} is neither `true` nor `false`")
    return text


def _whole(text: str) -> str:
    if not (text.isascii() and text.isdigit() and int(text) <= WHOLE_LIMIT):
        raise refusal("whole-number", f"{text!r} is no whole number from 0 to {WHOLE_LIMIT:_}: write `3`")
    return text


def _factor(text: str) -> str:
    if not _FACTOR.fullmatch(text):
        raise refusal("times", f"{text!r} is no factor: write digits with at most six decimals, such as `0.9`")
    return text


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    # `Factory` and `localtime` are the machine's own, in no other program's list of zones.
    return frozenset(available_timezones() - {"Factory", "localtime"})


def is_zone(name: str) -> bool:
    """Whether a text names an IANA time zone."""
    return name in _zones()


def _zone(name: str) -> str:
    if not is_zone(name):
        near = nearest(name, _zones())
        meant = f"did you mean {quoted(near)}?" if near else "write one such as `Europe/Paris` or `UTC`"
        raise refusal("zone", f"{name!r} is no IANA time zone: {meant}")
    return name


Text: TypeAlias = Annotated[
    str, BeforeValidator(_as_text), WithJsonSchema({"type": ["string", "number", "boolean"]}, mode="validation")
]
"""A scalar, as it was written."""

Zone: TypeAlias = Annotated[str, AfterValidator(_zone)]
"""An IANA time zone, such as `Europe/Paris`."""

Duration: TypeAlias = Annotated[
    Text,
    AfterValidator(_checked_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?\s*$"}, mode="validation"),
]
"""How long: `90s`, `15m`, `12h`, `30d`, `2w`, `1d12h`."""

Yes: TypeAlias = Annotated[
    Text, AfterValidator(_only_true), WithJsonSchema({"enum": [True, "true", "yes"]}, mode="validation")
]
"""The word `true`, for what makes sense in no other way."""

Boolean: TypeAlias = Annotated[
    Text,
    AfterValidator(_boolean),
    WithJsonSchema({"enum": [True, False, "true", "false", "yes", "no"]}, mode="validation"),
]
"""`true` or `false`."""

Whole: TypeAlias = Annotated[
    Text,
    AfterValidator(_whole),
    WithJsonSchema({"type": ["integer", "string"], "minimum": 0, "pattern": r"^\d+$"}, mode="validation"),
]
"""A whole number, 0 or more."""

Factor: TypeAlias = Annotated[
    Text, AfterValidator(_factor), WithJsonSchema({"type": ["number", "string"], "minimum": 0}, mode="validation")
]
"""What a number or price is multiplied by: at most six decimals, such as `0.9`."""
