"""Checks a condition against the tables before anything runs: names, types, values, and what may stand where."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any, Literal, TypeAlias

import polars as pl
from polars.exceptions import PolarsError

from activities.segments.comparisons import TAKES, TAKES_SUM, comparable, pattern_run
from activities.segments.nesting import PARTS_LIMIT
from activities.segments.values import EXAMPLES, Price, Scalar, read_value
from activities.tables.schema import KINDS, Kind, Schema
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeRef,
    AttributeTest,
    Comparison,
    Condition,
    DeviceTest,
    EntryRef,
    EventTest,
    Not,
    Path,
    PropertyRef,
    PropertyTest,
    Reference,
    SegmentRef,
    SumTest,
    duration,
    render_path,
    subject_of,
    walk,
)
from workflows.errors import Fault
from workflows.operators import Operators
from workflows.scalars import nearest, quoted

__all__ = ["Subject", "check_attribute", "check_comparison", "check_condition", "render_path"]

Subject: TypeAlias = Literal["user", "device", "event"]
"""What the leaves of a condition are about."""

LISTED = 12
"""Most names that a message lists."""

_TABLES = {"attribute": "users", "device attribute": "devices", "property": "events"}
_RESERVED = frozenset({"user_id", "event", "at", "event_id"})
"""Columns of `events` that are no properties."""

_INSTEAD = {
    "contains": "`has` looks into a list, `is` compares",
    "is": "`has` looks into a list",
    "in": "`has_any` looks into a list",
    "is_not": "`has` under `not` looks into a list",
    "not_in": "`has_any` under `not` looks into a list",
    "has": "`is` and `contains` compare a string",
    "has_any": "`in` compares a single value",
    "before": "`less_than` compares numbers, prices and versions",
    "after": "`more_than` compares numbers, prices and versions",
}
"""What to write in place of an operator that does not take the type."""

_SIZE_LIMIT = re.compile(r"size limit of (\d+) bytes")
"""What polars says of a regular expression that is too large once it is compiled."""


def check_condition(
    condition: Condition,
    schema: Schema,
    *,
    at: Path,
    segments: Container[str] | None,
    one_user: bool = False,
    subject: Subject = "user",
) -> list[Fault]:
    """Find everything in a condition that does not fit the tables.

    Args:
        condition: The condition.
        schema: The columns of `users`, `devices` and `events`, each with its kind.
        at: Where the condition stands in its document.
        segments: The names that exist; None to leave references unchecked. Nearest names are told when it can be
            iterated over.
        one_user: Whether it is judged for one user who entered by an event, so that `{entry: X}` has a value.
        subject: What its leaves are about: `device` for a push's `devices`, `event` for a trigger's `where`.

    Returns:
        Every fault, in document order; empty when it fits. Names of events are not checked: an event that nobody did
        yet is none the worse for it.
    """
    if (parts := sum(1 for _ in walk(condition))) > PARTS_LIMIT:
        message = f"the condition has {parts:,} parts; {PARTS_LIMIT:,} are the most"
        hint = "list values in one `in`, or import a list of users and write {segment: NAME}"
        return [Fault(code="too-large", path=render_path(at), message=message, hint=hint)]
    checker = _Checker(schema, segments, one_user)
    checker.node(condition, at, subject)
    return checker.faults


def check_comparison(
    comparison: Comparison, kind: Kind, schema: Schema, *, at: Path, one_user: bool = False
) -> list[Fault]:
    """Find everything in a comparison without a subject that does not fit what it compares.

    Args:
        comparison: Such as a branch of a split by attribute.
        kind: The kind of what it compares.
        schema: The columns of the tables, for references.
        at: Where the comparison stands in its document.
        one_user: Whether it is judged for one user who entered by an event.

    Returns:
        Every fault, in document order; empty when it fits.
    """
    checker = _Checker(schema, None, one_user)
    checker.operators(comparison, kind, at, "user")
    return checker.faults


def check_attribute(name: str, schema: Schema, *, at: Path) -> tuple[Kind | None, list[Fault]]:
    """Find the kind of a user's attribute.

    Args:
        name: The attribute.
        schema: The columns of the tables.
        at: Where it is named in its document.

    Returns:
        The kind; or None with the fault, which names the nearest attribute.
    """
    checker = _Checker(schema, None, False)
    return checker.kind("attribute", name, at), checker.faults


class _Checker:
    def __init__(self, schema: Schema, segments: Container[str] | None, one_user: bool) -> None:
        self.schema = schema
        self.segments = segments
        self.one_user = one_user
        self.faults: list[Fault] = []

    def fault(self, code: str, at: Path, message: str, hint: str = "") -> None:
        self.faults.append(Fault(code=code, message=message, path=render_path(at), hint=hint))

    def node(self, node: Condition, at: Path, subject: Subject) -> None:
        """Check a node and what is in it."""
        match node:
            case All():
                self.nodes(node.all, (*at, "all"), subject)
            case Any_():
                self.nodes(node.any, (*at, "any"), subject)
            case Not():
                self.node(node.not_, (*at, "not"), subject)
            case AttributeTest() if subject != "event":
                self.leaf(node, "attribute" if subject == "user" else "device attribute", node.attribute, at, subject)
            case PropertyTest() if subject == "event":
                self.leaf(node, "property", node.property, at, subject)
            case _ if subject != "user" or isinstance(node, PropertyTest):
                self.misplaced(node, at, subject)
            case _:
                self.of_user(node, at)

    def nodes(self, nodes: Iterable[Condition], at: Path, subject: Subject) -> None:
        for place, child in enumerate(nodes):
            self.node(child, (*at, place), subject)

    def of_user(self, node: Condition, at: Path) -> None:
        """Check what only a user has."""
        match node:
            case DeviceTest():
                self.leaf(node, "device attribute", node.device, at, "device")
            case AnyDevice():
                self.node(node.any_device, (*at, "any_device"), "device")
            case EventTest():
                self.event(node, at)
            case SegmentRef():
                self.segment(node, at)

    def misplaced(self, node: Condition, at: Path, subject: Subject) -> None:
        word = subject_of(node)
        if subject == "event":
            hint = "inside `where` each leaf is about a `property` of the event"
            if word == "attribute":
                hint += "; a user's attribute can be what it is compared with: `{property: X, is: {attribute: Y}}`"
        elif subject == "device":
            hint = "here each leaf is about an `attribute` of one device"
        else:
            hint = "write it inside `where` of an `event`"
        self.fault("misplaced", (*at, word), f"`{word}` cannot stand here", hint)

    def leaf(self, node: Comparison, what: str, name: str, at: Path, subject: Subject) -> None:
        kind = self.kind(what, name, (*at, subject_of(node)))  # type: ignore[arg-type]
        if kind is not None:
            self.operators(node, kind, at, subject)
        else:
            self.references(node, at, subject)

    def kind(self, what: str, name: str, at: Path) -> Kind | None:
        """Find the kind of a column; a fault and None when there is none of that name."""
        table = _TABLES[what]
        known = self.schema.get(table, {})
        names = [column for column in known if what != "property" or column not in _RESERVED]
        if name in names:
            return known[name]
        code = f"unknown-{what.replace(' ', '-')}"
        if known and not names:
            # Of events alone; whether there are any is not known here.
            bare = f"unknown property {name!r}: no event that was imported has a property"
            self.fault(code, at, bare, f"import events with a column {name!r}: journeys import events FILE")
            return None
        if not names:
            nobody = f"unknown {what} {name!r}: nothing was imported into {table}"
            self.fault(code, at, nobody, f"import them first: journeys import {table} FILE")
            return None
        near = nearest(name, names)
        hint = f"did you mean {quoted(near)}?" if near else ""
        if what == "attribute" and name in self.schema.get("devices", {}):
            hint = f"devices have it: write `device: {name}`"
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        self.fault(code, at, f"unknown {what} {name!r}; {table} has {', '.join(names[:LISTED])}{more}", hint)
        return None

    def event(self, node: EventTest, at: Path) -> None:
        # An event's window is about its instant; a name nobody did yet is no fault.
        if node.sum is not None:
            self.sum(node.sum, (*at, "sum"))
        self.operators(node, "instant", at, "event")
        if node.where is not None:
            self.node(node.where, (*at, "where"), "event")

    def sum(self, node: SumTest, at: Path) -> None:
        kind = self.kind("property", node.property, (*at, "property"))
        if kind is None:
            return
        if kind not in TAKES_SUM:
            message = f"{node.property!r} is {_a(kind)}: a sum is of numbers or prices"
            self.fault("wrong-type", (*at, "property"), message, "`count` counts events")
            return
        self.operators(node, kind, at, "event")

    def segment(self, node: SegmentRef, at: Path) -> None:
        if self.segments is None or node.segment in self.segments or node.name in self.segments:
            return
        names = sorted(self.segments) if isinstance(self.segments, Iterable) else []
        near = nearest(node.name, names)
        hint = f"did you mean {quoted(near)}?" if near else ""
        known = f"; there are {', '.join(names[:LISTED])}" if names else ""
        hint = hint or "save it, or import it: journeys segment import NAME FILE"
        self.fault("unknown-segment", (*at, "segment"), f"unknown segment {node.segment!r}{known}", hint)

    def operators(self, node: Operators, kind: Kind, at: Path, subject: Subject) -> None:
        """Check each operator of a leaf, and the leaf's values together."""
        for word, value in node.operators.items():
            if kind in TAKES[word]:
                self.operand(node, word, value, kind, (*at, word), subject)
            else:
                takes = ", ".join(known for known in KINDS if known in TAKES[word])
                instead = _INSTEAD.get(word, "") if kind in {"list", "string", "integer", "number", "price"} else ""
                self.fault("wrong-type", (*at, word), f"`{word}` takes {takes}, and this is {_a(kind)}", instead)
        if isinstance(node, Comparison) and node.ignore_case is not None and kind not in {"string", "list"}:
            message = f"`ignore_case` is for strings and lists, and this is {_a(kind)}"
            self.fault("wrong-type", (*at, "ignore_case"), message)
        self.range(node, kind, at)

    def operand(self, node: Operators, word: str, value: Any, kind: Kind, at: Path, subject: Subject) -> None:
        match word, value:
            case "is_set" | "is_not_set" | "days_ago" | "days_ahead" | "anniversary", _:
                return
            case "within_last" | "within_next" | "older_than", text:
                if kind == "date" and duration(text).seconds:
                    self.fault("wrong-type", at, f"{text!r} is no whole number of days, and a date has no time of day")
            case "matches", pattern:
                self.pattern(pattern, isinstance(node, Comparison) and node.ignores_case, at)
            case _, tuple():
                for place, item in enumerate(value):
                    self.value(item, kind, (*at, place), subject)
            case _:
                self.value(value, kind, at, subject)

    def pattern(self, pattern: str, folds: bool, at: Path) -> None:
        """Check a regular expression by compiling what will be run."""
        try:
            pl.Series([""]).str.contains(pattern_run(pattern, folds), literal=False)
        except PolarsError as error:
            if limit := _SIZE_LIMIT.search(str(error)):
                case = " with `ignore_case: true`" if folds else ""
                message = f"{pattern!r} is too large a regular expression{case}: compiled it exceeds {limit[1]} bytes"
                hint = r"repeat less often, or write `[a-z]` and `[0-9]` for `\w` and `\d`, which hold all of Unicode"
                self.fault("bad-pattern", at, message, hint)
                return
            lines = [line.strip() for line in str(error).splitlines() if line.strip().startswith("error:")]
            reason = lines[0].removeprefix("error: ") if lines else "it cannot be read"
            hint = "look-around and back-references are not known: https://docs.rs/regex/latest/regex/#syntax"
            self.fault("bad-pattern", at, f"{pattern!r} is no regular expression: {reason}", hint)

    def value(self, value: str | Reference, kind: Kind, at: Path, subject: Subject) -> None:
        """Check one value that something of a kind is compared with."""
        if not isinstance(value, str):
            self.reference(value, "string" if kind == "list" else kind, at, subject)
            return
        try:
            read_value(value, kind)
        except ValueError as error:
            self.fault("unreadable-value", at, str(error))

    def references(self, node: Comparison, at: Path, subject: Subject) -> None:
        """Check what a leaf is compared with, where its own kind is not known: a second typo is a second fault."""
        for word, value in node.operators.items():
            listed = isinstance(value, tuple)
            for place, one in enumerate(value if listed else (value,)):
                if isinstance(one, Reference):
                    self.reference(one, None, (*at, word, place) if listed else (*at, word), subject)

    def reference(self, value: Reference, kind: Kind | None, at: Path, subject: Subject) -> None:
        """Check a reference that something of a kind is compared with; null where its kind is not known."""
        match value:
            case EntryRef():
                if not self.one_user:
                    message = f"{{entry: {value.entry}}} has no value here"
                    hint = "only where one user is judged, such as a wait's trigger, is there an entry event"
                    self.fault("misplaced", (*at, "entry"), message, hint)
                return
            case PropertyRef():
                if subject != "event":
                    message = f"{{property: {value.property}}} has no value here"
                    self.fault("misplaced", (*at, "property"), message, "only inside `where` is there an event")
                    return
                other = self.kind("property", value.property, (*at, "property"))
            case AttributeRef():
                what = "device attribute" if subject == "device" else "attribute"
                other = self.kind(what, value.attribute, (*at, "attribute"))
        if other is None:
            return
        if kind is not None and not comparable(kind, other):
            self.fault("wrong-type", at, f"{_a(kind)} cannot be compared with {_a(other)}")
        elif value.times is not None and other not in TAKES_SUM:
            self.fault("wrong-type", (*at, "times"), f"`times` multiplies numbers and prices, and this is {_a(other)}")

    def range(self, node: Operators, kind: Kind, at: Path) -> None:
        """Refuse bounds that no value lies between."""
        found = node.operators
        lower: Any = None
        upper: Any = None
        if "between" in found:
            lower, upper = found["between"]
        elif len(found) == 2:
            lower = next((value for word, value in found.items() if word in {"at_least", "more_than", "after"}), None)
            upper = next((value for word, value in found.items() if word in {"at_most", "less_than", "before"}), None)
        if not (isinstance(lower, str) and isinstance(upper, str)):
            return
        first, last = self.quiet(lower, kind), self.quiet(upper, kind)
        if isinstance(first, Price) and isinstance(last, Price):
            if first.currency != last.currency:
                message = f"nothing is from {lower!r} to {upper!r}: two currencies never compare"
                self.fault("empty-range", at, message, "name one currency")
                return
            first, last = first.amount, last.amount  # type: ignore[assignment]
        if type(first) is type(last) and first is not None and first > last:  # type: ignore[operator]
            self.fault("empty-range", at, f"nothing is from {lower!r} to {upper!r}", "the lower value comes first")

    def quiet(self, text: str, kind: Kind) -> Scalar | None:
        """Read a value; None when it cannot be, which has been told where it stands."""
        try:
            return read_value(text, kind) if kind in TAKES["at_least"] else None
        except ValueError:
            return None


def _a(kind: Kind) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" + (f" such as `{EXAMPLES[kind]}`" if kind == "price" else "")
