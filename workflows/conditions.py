"""The segment language: a condition is a tree whose leaves compare and whose branches are `all`, `any` and `not`.

Each node has exactly one subject, the key that says what it is about. Models state; `activities.segments` checks a
condition against the tables and compiles it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from workflows.operators import (
    AttributeRef,
    Bounds,
    Comparison,
    DateOperators,
    EntryRef,
    HowMany,
    Node,
    Operators,
    PropertyRef,
    Reference,
    Value,
)
from workflows.scalars import Duration, Text, Yes, Zone, duration, nearest, quoted, refusal

__all__ = [
    "SUBJECTS",
    "All",
    "AnyDevice",
    "Any_",
    "AttributeRef",
    "AttributeTest",
    "Comparison",
    "Condition",
    "DateOperators",
    "DeviceTest",
    "Duration",
    "EntryRef",
    "EventTest",
    "Everyone",
    "FileRef",
    "HowMany",
    "Not",
    "Path",
    "PropertyRef",
    "PropertyTest",
    "Reference",
    "SegmentRef",
    "SumTest",
    "Value",
    "Zone",
    "duration",
    "render_path",
    "subject_of",
    "walk",
]

Path: TypeAlias = tuple[str | int, ...]
"""Where something stands in a document: keys and places in lists."""

_SEGMENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(@[1-9][0-9]{0,8})?")


def _segment_name(text: str) -> str:
    if not _SEGMENT_NAME.fullmatch(text):
        raise refusal(
            "segment-name",
            f"{text!r} is no name of a segment: write lower-case letters, digits and hyphens, "
            "and `@3` behind them to pin a version",
        )
    return text


def _some_conditions(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise refusal("list", f"a list of conditions is expected, not {value!r}: begin each with a hyphen")
    if not value:
        raise refusal("empty", "the list holds no condition: nothing is neither everybody nor nobody")
    return value


def _one_subject(value: Any) -> Any:
    if isinstance(value, Node):
        return value
    if not isinstance(value, Mapping):
        raise refusal("condition", f"a condition is expected, such as `{{attribute: plan, is: paid}}`, not {value!r}")
    found = [subject for subject in SUBJECTS if subject in value]
    if len(found) == 1:
        return value
    if found:
        raise refusal(
            "subjects",
            f"{len(found)} subjects found, {quoted(found)}: a condition has one of {quoted(SUBJECTS)}. "
            "Put several conditions under `all` or `any`",
        )
    near = [name for key in value for name in nearest(str(key), SUBJECTS)[:1]]
    meant = f"did you mean {quoted(near)}? " if near else ""
    keys = f"{quoted(map(str, value))} is none" if value else "the condition is empty"
    raise refusal("subject", f"{keys}: {meant}a condition has one of the subjects {quoted(SUBJECTS)}")


class _OnAttribute(Node):
    # A class of its own, so that the subject comes before its operators wherever a condition is shown.
    attribute: str
    """Name of the attribute: of the user, or of the device inside `any_device`."""


class _OnDevice(Node):
    device: str
    """Name of the device's attribute, such as `platform`."""


class _OnProperty(Node):
    property: str
    """Name of the event's property."""


class _OnEvent(Node):
    event: str
    """Name of the event, such as `purchase`."""


class All(Node):
    """True when each of the conditions is true."""

    all: Annotated[tuple[Condition, ...], BeforeValidator(_some_conditions), Field(min_length=1)]
    """The conditions, at least one."""


class Any_(Node):
    """True when at least one of the conditions is true."""

    any: Annotated[tuple[Condition, ...], BeforeValidator(_some_conditions), Field(min_length=1)]
    """The conditions, at least one."""


class Not(Node):
    """True when the condition is false: exactly the other users, those included whose value is missing."""

    not_: Condition = Field(alias="not")
    """The condition."""


class Everyone(Node):
    """True for every user."""

    everyone: Yes
    """The word `true`."""


class AttributeTest(Comparison, _OnAttribute):
    """Compares an attribute: of the user, or of the device inside `any_device`. False where it is missing."""


class DeviceTest(Comparison, _OnDevice):
    """True when one device's attribute compares so: short for `any_device: {attribute: X}`.

    False for a user without devices.
    """


class AnyDevice(Node):
    """True when all of the condition is true of one and the same device. False for a user without devices."""

    any_device: Condition
    """A condition over the device's attributes."""


class PropertyTest(Comparison, _OnProperty):
    """Compares a property of the event, inside `where`. False where the event lacks it."""


class SumTest(Operators):
    """Compares the sum of a property over the matching events.

    Events without the property add nothing, and the sum over no events is 0. Prices are summed in the currency they
    are compared with.
    """

    words: ClassVar[tuple[str, ...]] = ("at_least", "at_most", "more_than", "less_than", "between")

    property: str
    """The property: a number or a price."""
    at_least: Text | None = None
    """This or more."""
    at_most: Text | None = None
    """This or less: also true of users without such events, whose sum is 0."""
    more_than: Text | None = None
    """More than this."""
    less_than: Text | None = None
    """Less than this: also true of users without such events, whose sum is 0."""
    between: tuple[Text, Text] | None = None
    """From the first value to the second, both included."""


def _summed(value: Any) -> Any:
    if isinstance(value, Mapping | SumTest):
        return value
    found = repr(str(value)) if value else "nothing"
    raise refusal(
        "sum",
        f"a mapping that says what is summed is expected, not {found}: write `sum: {{property: NAME, at_least: 100}}`",
    )


class EventTest(DateOperators, _OnEvent):
    """True when the user did the event often enough, in the window, with all of `where` true of the same event."""

    required: ClassVar[bool] = False
    misplaced: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("exactly", "at_least", "at_most", "more_than", "less_than"),
        "a number of events is compared by `count: {at_least: 2}`, a sum by `sum: {property: NAME, at_least: 100}`",
    )

    count: Bounds | None = None
    """How often; left out: at least once. `{exactly: 0}` finds users who never did."""
    sum: Annotated[SumTest, BeforeValidator(_summed)] | None = None
    """In place of `count`: what a property adds up to."""
    where: Condition | None = None
    """A condition over the event's properties."""

    @model_validator(mode="after")
    def _one_measure(self) -> EventTest:
        if self.count is not None and self.sum is not None:
            raise refusal("operators", "`count` and `sum` found: an event has one. Put two tests of it under `all`")
        return self


class SegmentRef(Node):
    """True for the users of another segment."""

    segment: Annotated[Text, AfterValidator(_segment_name)]
    """Its name: `vip` follows the newest version, `vip@3` pins one."""

    @property
    def name(self) -> str:
        """The segment's name without a version."""
        return self.segment.partition("@")[0]

    @property
    def version(self) -> int | None:
        """The pinned version; None follows the newest."""
        return int(pinned) if (pinned := self.segment.partition("@")[2]) else None


class FileRef(Node):
    """True for the users whose ids a file lists. It is imported when its document is saved."""

    file: Annotated[str, Field(min_length=1)]
    """A CSV file, seen from the document's folder."""
    column: str | None = None
    """The column of the ids; left out: the column named as the identifier, or the only one."""
    identifier: Literal["user_id", "device_id"] = "user_id"
    """What the ids name. A device stands for its user."""


_MODELS: dict[str, type[Node]] = {
    "all": All,
    "any": Any_,
    "not": Not,
    "everyone": Everyone,
    "attribute": AttributeTest,
    "device": DeviceTest,
    "any_device": AnyDevice,
    "event": EventTest,
    "property": PropertyTest,
    "segment": SegmentRef,
    "file": FileRef,
}
SUBJECTS = tuple(_MODELS)
"""The keys of which each condition has exactly one."""


def _tag(value: Any) -> str | None:
    # In brackets, so that no tag in the place of an error can be taken for a key of the document.
    for subject, model in _MODELS.items():
        if isinstance(value, model) or (isinstance(value, Mapping) and subject in value):
            return f"({subject})"
    return None


Condition: TypeAlias = Annotated[
    Annotated[All, Tag("(all)")]
    | Annotated[Any_, Tag("(any)")]
    | Annotated[Not, Tag("(not)")]
    | Annotated[Everyone, Tag("(everyone)")]
    | Annotated[AttributeTest, Tag("(attribute)")]
    | Annotated[DeviceTest, Tag("(device)")]
    | Annotated[AnyDevice, Tag("(any_device)")]
    | Annotated[EventTest, Tag("(event)")]
    | Annotated[PropertyTest, Tag("(property)")]
    | Annotated[SegmentRef, Tag("(segment)")]
    | Annotated[FileRef, Tag("(file)")],
    Discriminator(_tag),
    BeforeValidator(_one_subject),
]
"""A condition: true or false for every user."""

for _model in (All, Any_, Not, AnyDevice, EventTest):
    _model.model_rebuild()


def subject_of(node: Condition) -> str:
    """Name the subject of a node: the key that says what it is about."""
    return next(subject for subject, model in _MODELS.items() if type(node) is model)


def walk(condition: Condition, at: Path = ()) -> Iterator[tuple[Path, Condition]]:
    """Yield each node of a condition, parents before children, in document order.

    Args:
        condition: A condition.
        at: Where it stands.

    Yields:
        Where the node stands, and the node; also those inside `any_device` and `where`.
    """
    yield at, condition
    children: list[tuple[Path, Condition]] = []
    match condition:
        case All():
            children = [(("all", place), child) for place, child in enumerate(condition.all)]
        case Any_():
            children = [(("any", place), child) for place, child in enumerate(condition.any)]
        case Not():
            children = [(("not",), condition.not_)]
        case AnyDevice():
            children = [(("any_device",), condition.any_device)]
        case EventTest(where=where) if where is not None:
            children = [(("where",), where)]
    for key, child in children:
        yield from walk(child, (*at, *key))


def render_path(path: Path) -> str:
    """Write a place as people read it: `match.all[1].attribute`.

    Args:
        path: Keys and places in lists. The tags that pydantic puts between them, in brackets, are left out.

    Returns:
        The place; empty for the document itself.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (part.startswith("(") and part.endswith(")")):
            text += f".{part}" if text else part
    return text


def compares_with(condition: Condition | None, reference: type[Reference]) -> bool:
    """Tell whether a condition compares something with a kind of reference, such as `{entry: X}`; None does not."""
    if condition is None:
        return False
    compared = (node.operands for _, node in walk(condition) if isinstance(node, Operators))
    return any(isinstance(one, reference) for operands in compared for one in operands)
