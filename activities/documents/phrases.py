"""The phrases for each kind of error that pydantic knows."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from activities.documents.raw import excerpt, suggestion

_KNOWN = frozenset(get_args(ErrorType))
"""Pydantic's own kinds: any other is raised by a validator of ours, in our words."""

_NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "decimal": "a number",
    "bool": "`true` or `false`",
    "string": "a text",
    "bytes": "a text",
    "date": "a date such as 2026-03-01",
    "time": "a time of day such as 22:00",
    "datetime": "an instant such as 2026-03-01T10:00:00Z",
    "timezone": "an instant with its zone",
    "time_delta": "a duration",
    "url": "an address such as https://example.org",
    "uuid": "a UUID",
    "model": "a mapping",
    "model_attributes": "a mapping",
    "dataclass": "a mapping",
    "dict": "a mapping",
    "mapping": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "iterable": "a list",
}
"""What a field expects, by the first part of the kinds that say it got something else."""

_TYPE_KIND = re.compile(r"(?P<noun>[a-z_]+?)_(type|parsing|parsing_size|from_\w+|number|attributes_type)")

_MUST = {
    "greater_than": "be more than {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be less than {lt}",
    "less_than_equal": "be at most {le}",
    "multiple_of": "be a multiple of {multiple_of}",
    "string_too_short": "have at least {min_length} characters",
    "string_too_long": "have at most {max_length} characters",
    "string_pattern_mismatch": "match {pattern}",
}
"""What a value must do, by the kind of error."""


def is_missing(details: ErrorDetails) -> bool:
    """Whether an error says that a key is absent."""
    return details["type"] in ("missing", "missing_argument", "missing_keyword_only_argument")


def what_is(value: Any) -> str:
    """Say what stands in a document: `a mapping`, `a list`, `nothing`, or the text itself."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value in ("", None) else excerpt(value)


def code_and_message(details: ErrorDetails, value: Any) -> tuple[str, str, str]:
    """Word an error about one value.

    Args:
        details: Pydantic's error.
        value: What the document says there.

    Returns:
        Code, message and hint.
    """
    kind, context = details["type"], details.get("ctx", {})
    if kind not in _KNOWN:
        return kind.replace("_", "-"), details["msg"], str(context.get("hint", ""))
    if kind in ("value_error", "assertion_error"):
        error = context.get("error")
        return "wrong-value", str(error) or details["msg"], str(getattr(error, "hint", ""))
    if kind in ("literal_error", "enum"):
        if isinstance(value, dict | list):
            return "wrong-type", f"expected one of {context['expected']}, found {what_is(value)}", ""
        return "wrong-value", f"{excerpt(value)} is not allowed here", suggestion(str(value), _expected(context))
    if kind in _MUST:
        must = _MUST[kind].format_map(context)
        return "wrong-value", f"{excerpt(value)} is not allowed here: it must {must}", _respelt(value, context)
    if kind in ("too_short", "too_long"):
        least = context.get("min_length")
        limit = f"at least {least}" if least is not None else f"at most {context.get('max_length')}"
        found = context.get("actual_length") or len(value)
        return "wrong-length", f"expected {limit} here, found {found or 'none'}", ""
    if typed := _TYPE_KIND.fullmatch(kind):
        noun = _NOUNS.get(typed["noun"])
        if noun is not None:
            return _wrong_type(noun, value)
    message = details["msg"]
    return "wrong-value", f"{what_is(value)}: {message[:1].lower()}{message[1:]}", ""


def _wrong_type(noun: str, value: Any) -> tuple[str, str, str]:
    if isinstance(value, dict | list) or noun in ("a mapping", "a list") or value == "":
        return "wrong-type", f"expected {noun}, found {what_is(value)}", ""
    return "wrong-value", f"{excerpt(value)} is not {noun}", ""


def _expected(context: dict[str, Any]) -> list[str]:
    """Read the list of what is allowed, which pydantic words as `'a', 'b' or 'c'`."""
    return [text for text in re.findall(r"'((?:[^'\\]|\\.)*)'", str(context.get("expected", "")))]


def _respelt(value: Any, context: dict[str, Any]) -> str:
    """Offer a name in the spelling that names have, when the pattern was all that refused it."""
    pattern = context.get("pattern")
    if not isinstance(pattern, str) or not isinstance(value, str):
        return ""
    name = re.sub(r"[^a-z0-9_]+", "-", value.lower()).strip("-")
    candidates = (name, name.replace("_", "-"))
    return next((f"did you mean `{one}`?" for one in candidates if one and re.search(pattern, one)), "")
