"""Messages: the language a device gets, and templates rendered for one user.

Templates are Liquid, strict: a value that is missing and has no default is an error of that user's message, never an
empty place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from difflib import get_close_matches
from functools import lru_cache, wraps
from typing import Any

from liquid import BoundTemplate, Environment, FalsyStrictUndefined, Undefined
from liquid.exceptions import FilterArgumentError, LiquidError, UndefinedError
from pydantic import BaseModel, ConfigDict

from activities.tables.schema import Schema
from workflows.conditions import render_path
from workflows.errors import Fault
from workflows.messages import Message, MessageTexts

TEXTS = tuple(MessageTexts.model_fields)
"""The texts of a message, each of which may be a template."""

TEMPLATE_NAMES = ("user", "device", "journey", "entry", "waited")
"""What templates see: `entry` is the event by which the user entered, `waited.ELEMENT` the one a wait ended with."""


FILTER_LIMIT = 8_192
"""Longest text, and most items, that a filter may take or give: Liquid bounds loops and output, and not these."""


TEXT_LIMIT = 4_096
"""Longest template in characters: FCM and APNs take 4,096 bytes of all that a message is."""

TAG_LIMIT = 200
"""Most tags and outputs of a template: an unclosed one makes Liquid search to the end of the text, each for itself."""


class MissingValue(Exception):
    """A template needs a value that this user does not have."""


class Rendered(BaseModel):
    """One message as one device gets it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    title: str
    body: str
    subtitle: str | None = None
    image: str | None = None
    link: str | None = None
    data: dict[str, str] = {}
    """Values for the application."""
    language: str | None = None
    """The language of the texts; null for the message's base texts."""


class _Environment(Environment):
    """Liquid with bounds: a template is written by people, and may not take a worker down."""

    context_depth_limit = 10
    loop_iteration_limit = 1_000
    local_namespace_limit = 20_000
    output_stream_limit = 20_000


def _environment() -> _Environment:
    environment = _Environment(undefined=FalsyStrictUndefined)
    for tag in ("include", "render"):  # there is nothing to include: a template is one text
        environment.tags.pop(tag, None)
    environment.filters = {name: _bounded(each) for name, each in environment.filters.items()}
    return environment


def _bounded(found: Callable[..., Any]) -> Callable[..., Any]:
    """Bound what a filter takes and gives: `{{ (1..3000000) | join }}` took 0.7 s of a worker, measured."""

    def within(value: Any) -> Any:
        # What is missing goes to the filter as it is: asking for its length fails, and `default` takes it.
        if not isinstance(value, Undefined) and isinstance(value, Sized) and len(value) > FILTER_LIMIT:
            raise FilterArgumentError(
                f"a filter takes and gives at most {FILTER_LIMIT} items or characters", token=None
            )
        return value

    @wraps(found)
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        return within(found(within(value), *map(within, args), **kwargs))

    return bounded


class _Values:
    """A row as templates see it: `size` and `first` are attributes like any other, and nothing else can be reached."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return _Values(value) if isinstance(value, Mapping) else value

    def __str__(self) -> str:
        return ""


_LIQUID = _environment()


@lru_cache(maxsize=2_000)
def _parsed(text: str) -> BoundTemplate:
    return _LIQUID.from_string(text)


def texts_for(message: Message, language: str | None) -> tuple[dict[str, str], str | None]:
    """Choose the texts of a message for a device.

    Args:
        message: The message.
        language: The device's language tag, such as `fr-CA`; null when unknown.

    Returns:
        The texts that are set, by name, and the language they are in (null for the base texts). One language serves
        the whole message; a text that it lacks is taken from the base texts.
    """
    tags = {tag.lower(): tag for tag in message.languages}
    wanted = (language or "").replace("_", "-").lower()
    found = next((tags[tag] for tag in (wanted, wanted.split("-")[0]) if tag in tags), None)
    chosen = message.languages[found] if found else None
    texts: dict[str, str] = {}
    for name in TEXTS:
        own: str | None = getattr(chosen, name) if chosen else None
        text: str | None = own if own is not None else getattr(message, name)
        if text is not None:
            texts[name] = text
    return texts, found


def render(message: Message, language: str | None, values: Mapping[str, Mapping[str, Any]]) -> Rendered:
    """Render a message for one device.

    Args:
        message: The message.
        language: The device's language tag; null when unknown.
        values: What templates see, by name; a value that is missing is absent, never null.

    Returns:
        The message.

    Raises:
        MissingValue: A template needs a value that is absent and gives no default.
    """
    texts, found = texts_for(message, language)
    seen = {name: _Values(row) for name, row in values.items()}
    rendered = {name: _rendered(name, text, seen) for name, text in texts.items()}
    return Rendered.model_validate({**rendered, "data": render_data(message.data, values), "language": found})


def render_data(data: Mapping[str, str], values: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Render the values of an object that is sent elsewhere.

    Args:
        data: Name to text, which may be a template.
        values: What templates see, by name; a value that is missing is absent, never null.

    Returns:
        Name to text.

    Raises:
        MissingValue: A template needs a value that is absent and gives no default.
    """
    seen = {name: _Values(row) for name, row in values.items()}
    return {name: _rendered(f"data.{name}", text, seen) for name, text in data.items()}


def _rendered(name: str, text: str, seen: Mapping[str, _Values]) -> str:
    if "{" not in text:
        return text
    try:
        return _parsed(text).render(**seen)
    except UndefinedError as error:
        raise MissingValue(f"{name} needs a value that is missing: {_first_line(error)}") from error
    except LiquidError as error:
        raise MissingValue(f"{name} cannot be rendered: {_first_line(error)}") from error


def needs_values(message: Message) -> bool:
    """Tell whether a message reads differently, or may fail, from one user to another."""
    found = [getattr(each, name) for each in (message, *message.languages.values()) for name in TEXTS]
    return any("{" in text for text in (*found, *message.data.values()) if text is not None)


def message_faults(message: Message, at: tuple[str | int, ...], schema: Schema) -> list[Fault]:
    """Check the templates of a message against the tables.

    Args:
        message: The message.
        at: Where it stands in the document.
        schema: The tables' columns.

    Returns:
        A fault for each template that does not parse, and for each name in one that no table has.
    """
    return [fault for place, texts in message_texts(message) for fault in texts_faults(texts, (*at, *place), schema)]


def message_texts(message: Message) -> Iterator[tuple[tuple[str, ...], Mapping[str, str | None]]]:
    """Yield the texts of a message that may be templates: where they stand in it, and the texts by name."""
    yield (), {name: getattr(message, name) for name in TEXTS}
    for language, texts in message.languages.items():
        yield ("languages", language), {name: getattr(texts, name) for name in TEXTS}
    yield ("data",), message.data


def names_used(text: str) -> list[list[Any]]:
    """List the names that a template uses, each in its parts: `entry.total` is `["entry", "total"]`.

    Args:
        text: A text.

    Returns:
        The names, in order; none for a text that does not parse.
    """
    try:
        found = _parsed(text).analyze().globals if "{" in text else {}
    except LiquidError:
        return []
    return [list(use.segments) for uses in found.values() for use in uses]


def texts_faults(texts: Mapping[str, str | None], at: tuple[str | int, ...], schema: Schema) -> list[Fault]:
    """Check templates against the tables.

    Args:
        texts: Name to text.
        at: Where they stand in the document.
        schema: The tables' columns.

    Returns:
        A fault for each template that does not parse, and for each name in one that no table has.
    """
    faults: list[Fault] = []
    for name, text in texts.items():
        if text is None:
            continue
        path = render_path((*at, name))
        if len(text) > TEXT_LIMIT or text.count("{{") + text.count("{%") > TAG_LIMIT:
            message = f"the template {text[:80]!r}... has {len(text):,} characters and {text.count('{'):,} braces"
            hint = f"a template has at most {TEXT_LIMIT:,} characters, and {TAG_LIMIT} tags"
            faults.append(Fault(code="too-long", path=path, message=message, hint=hint))
            continue
        try:
            analysis = _parsed(text).analyze()
        except LiquidError as error:
            message = f"the template {text[:80]!r} does not parse: {_first_line(error)}"
            hint = "see the Liquid documentation; a brace that is meant as text is written {% raw %}{{{% endraw %}"
            faults.append(Fault(code="bad-template", path=path, message=message, hint=hint))
            continue
        for unknown in sorted(set(analysis.filters) - set(_LIQUID.filters)):
            near = get_close_matches(unknown, _LIQUID.filters, n=1)
            faults.append(
                Fault(
                    code="unknown-filter",
                    path=path,
                    message=f"there is no filter {unknown!r}",
                    hint=f"did you mean {near[0]!r}?" if near else "see the Liquid documentation",
                )
            )
        for uses in analysis.globals.values():
            faults += [fault for use in uses if (fault := _name_fault(use.segments, path, schema))]
    return faults


def _name_fault(segments: list[Any], path: str, schema: Schema) -> Fault | None:
    """Check one name that a template uses, such as `user.first_name`."""
    head = segments[0]
    if head not in TEMPLATE_NAMES:
        return Fault(
            code="unknown-name",
            path=path,
            message=f"the template uses {head!r}",
            hint=f"templates see: {', '.join(TEMPLATE_NAMES)}",
        )
    if head in ("journey", "entry", "waited") or len(segments) < 2 or not isinstance(segments[1], str):
        return None
    columns = schema.get(f"{head}s", {})
    if segments[1] in columns:
        return None
    near = get_close_matches(segments[1], columns, n=1)
    exist = (
        f"{head}s have: {', '.join(list(columns)[:20])}"
        if columns
        else f"import some first: journeys import {head}s FILE"
    )
    return Fault(
        code="unknown-attribute",
        path=path,
        message=f"the template uses {head}.{segments[1]}, and {head}s have no attribute {segments[1]!r}",
        hint=f"did you mean {near[0]!r}?" if near else exist,
    )


def _first_line(error: LiquidError) -> str:
    return str(error).splitlines()[0]
