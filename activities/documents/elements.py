"""Checks what elements say beyond conditions: values by name, dates, updates, templates, and how the boxes fit."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from yarl import URL

from activities.push.messages import message_faults, message_texts, names_used, texts_faults
from activities.segments.checking import check_attribute, check_comparison, check_condition
from activities.segments.comparisons import comparable
from activities.tables.headers import unusable
from activities.tables.inference import kind_by_name
from activities.tables.properties import typed_row
from activities.tables.schema import Kind, Schema
from workflows.conditions import render_path
from workflows.documents import (
    ApiEntry,
    AudienceEntry,
    JourneyDocument,
    Push,
    ReachabilityCheck,
    SplitTest,
    TimeDelay,
    TriggerEntry,
    UpdateUser,
    ValueSplit,
    WaitForTrigger,
    Webhook,
    ways_out,
)
from workflows.errors import Fault
from workflows.operators import AttributeRef, EntryRef, PropertyRef, Reference
from workflows.scalars import nearest, quoted
from workflows.triggers import triggers_of

__all__ = ["element_faults", "element_warnings"]

Place: TypeAlias = tuple[str | int, ...]
"""Where in a document: keys and indexes."""

DATED: tuple[Kind, ...] = ("date", "instant", "string")
"""Kinds whose values may be read as a moment: a text may hold a date."""


@dataclass(frozen=True)
class _Journey:
    """A journey, and what is known at each of its elements."""

    document: JourneyDocument
    schema: Schema

    @cached_property
    def gives_event(self) -> bool:
        """Whether some entry has values that templates and `{entry: X}` can see."""
        return any(isinstance(entry, TriggerEntry | ApiEntry) for entry in self.document.entries.values())

    @cached_property
    def before(self) -> dict[str, set[str]]:
        """Each element with all that users may have passed before it."""
        leads: dict[str, set[str]] = {name: set() for name in self.document.elements}
        for name, element in self.document.elements.items():
            for target in ways_out(element).values():
                leads.get(target, set()).add(name)
        found: dict[str, set[str]] = {}
        for name in leads:
            passed: set[str] = set()
            waiting = list(leads[name])
            while waiting:
                one = waiting.pop()
                if one not in passed:
                    passed.add(one)
                    waiting.extend(leads[one])
            found[name] = passed
        return found

    @cached_property
    def waits(self) -> list[str]:
        """The waits of the journey."""
        return [name for name, one in self.document.elements.items() if isinstance(one, WaitForTrigger)]

    def awaits_event(self, name: str) -> bool:
        """Whether a wait for an event may come before an element."""
        elements = self.document.elements
        return any(
            any(True for branch in elements[wait].branches.own.values() for _ in triggers_of(branch))  # type: ignore[union-attr]
            for wait in self.waits
            if wait in self.before[name]
        )

    def value_faults(self, value: Reference, at: Place, element: str) -> tuple[Kind | None, list[Fault]]:
        """Check a value that one user is asked for.

        Returns:
            Its kind, where the tables tell, and the faults.
        """
        if value.times is not None:
            said = "`times` has no meaning here: it is the factor of a value that something is compared with"
            return None, [_fault("misplaced", (*at, "times"), said)]
        match value:
            case AttributeRef(attribute=name):
                return check_attribute(name, self.schema, at=(*at, "attribute"))
            case EntryRef(entry=name):
                faults = [] if self.gives_event else [_no_entry((*at, "entry"), f"{{entry: {name}}}")]
            case PropertyRef(property=name):
                faults = [] if self.awaits_event(element) else [_no_wait((*at, "property"), f"{{property: {name}}}")]
        return self.schema.get("events", {}).get(name), faults


def element_faults(document: JourneyDocument, schema: Schema, segments: Container[str]) -> list[Fault]:
    """Find what does not fit in a journey's entries, elements and goals, beyond conditions over all users and triggers.

    Args:
        document: A journey whose models are valid.
        schema: The columns of the tables, each with its kind.
        segments: The names of segments that exist.

    Returns:
        Faults in document order, with paths and without files and lines.
    """
    journey = _Journey(document, schema)
    faults: list[Fault] = []
    for name, element in document.elements.items():
        at: Place = ("elements", name)
        match element:
            case ValueSplit():
                faults += _split_faults(journey, element, name, at)
            case TimeDelay(until=until) if until is not None:
                faults += _delay_faults(journey, until, name, at)
            case SplitTest(winner=winner) if winner is not None and winner.goal not in document.goals:
                faults.append(_unknown_goal(winner.goal, list(document.goals), (*at, "winner", "goal")))
            case UpdateUser():
                faults += _update_faults(journey, element, name, at)
            case Webhook():
                faults += _webhook_faults(journey, element, name, at)
            case Push():
                faults += message_faults(element.message, (*at, "message"), schema)
                for inside, texts in message_texts(element.message):
                    faults += _seen_faults(journey, texts, name, (*at, "message", *inside))
                if element.devices is not None:
                    place = (*at, "devices")
                    faults += check_condition(
                        element.devices,
                        schema,
                        at=place,
                        segments=segments,
                        one_user=journey.gives_event,
                        subject="device",
                    )
    return faults


def _split_faults(journey: _Journey, split: ValueSplit, name: str, at: Place) -> list[Fault]:
    kind, faults = journey.value_faults(split.by, (*at, "by"), name)
    if kind is None:
        # An event's property that nobody sent yet has no kind: what it is compared with is read when it comes.
        return faults
    for branch, comparison in split.branches.own.items():
        place = (*at, "branches", branch)
        faults += check_comparison(comparison, kind, journey.schema, at=place, one_user=journey.gives_event)
    return faults


def _delay_faults(journey: _Journey, until: Reference, name: str, at: Place) -> list[Fault]:
    kind, faults = journey.value_faults(until, (*at, "until"), name)
    if kind is not None and kind not in DATED:
        message = f"a delay lasts until a date or an instant, and this is of the type {kind}"
        faults.append(_fault("wrong-type", (*at, "until"), message))
    return faults


def _update_faults(journey: _Journey, element: UpdateUser, name: str, at: Place) -> list[Fault]:
    faults: list[Fault] = []
    users = journey.schema.get("users", {})
    for attribute, value in element.set.items():
        place = (*at, "set", attribute)
        if attribute == "user_id":
            faults.append(_fault("misplaced", place, "`user_id` names the user and is never changed"))
            continue
        twin = next((known for known in users if known != attribute and known.lower() == attribute.lower()), None)
        if wrong := unusable(attribute):
            faults.append(_fault("bad-name", place, wrong, "call the attribute otherwise"))
        elif twin is not None and attribute not in users:
            message = f"{attribute!r} differs only in case from the attribute {twin!r}"
            faults.append(_fault("bad-name", place, message, f"write {twin}"))
        kind = users.get(attribute)
        if not isinstance(value, str):
            other, found = journey.value_faults(value, place, name)
            faults += found
            if kind is not None and other is not None and not (other == kind or comparable(other, kind)):
                message = (
                    f"{attribute!r} is of the type {kind}, and a value of the type {other} cannot be written to it"
                )
                faults.append(_fault("wrong-type", place, message))
        elif (kind := kind or kind_by_name(attribute)) is not None and not _reads_as(value, kind):
            message = f"{value!r} cannot be read as the type of {attribute!r}, which is {kind}"
            faults.append(_fault("unreadable-value", place, message))
    return faults


def _reads_as(value: str, kind: Kind) -> bool:
    """Tell whether an update writes a text: one that does not read as the attribute's kind is left out."""
    return typed_row({"value": value}, {"value": kind}, textual=False).get_column("value").item() is not None


def _webhook_faults(journey: _Journey, element: Webhook, name: str, at: Place) -> list[Fault]:
    faults: list[Fault] = []
    if "{{" in element.url or "{%" in element.url:
        message = f"{element.url!r} is a template, and an address is the same for all users"
        faults.append(_fault("bad-address", (*at, "url"), message, "put what differs into `data`"))
    else:
        try:
            host = URL(element.url).host
        except ValueError:
            host = None
        if not host:
            message = f"{element.url!r} names no host"
            faults.append(_fault("bad-address", (*at, "url"), message, "write https://hooks.example.com/path"))
    faults += texts_faults(element.data, (*at, "data"), journey.schema)
    faults += _seen_faults(journey, element.data, name, (*at, "data"), device=False)
    return faults


def _seen_faults(
    journey: _Journey, texts: Mapping[str, str | None], name: str, at: Place, *, device: bool = True
) -> Iterator[Fault]:
    """Check that templates see what they name of events, and of devices."""
    for key, text in texts.items():
        told: set[str] = set()
        for segments in names_used(text or ""):
            spelled = ".".join(map(str, segments[:2]))
            if spelled in told:
                continue
            told.add(spelled)
            if segments[0] == "entry" and not journey.gives_event:
                yield _no_entry((*at, key), f"the template's {spelled!r}")
            elif segments[0] == "waited" and len(segments) > 1:
                yield from _waited_faults(journey, str(segments[1]), name, (*at, key))
            elif segments[0] == "device" and not device:
                yield _fault(
                    "misplaced", (*at, key), f"the template's {spelled!r} has no value here: no device is meant"
                )


def _waited_faults(journey: _Journey, wait: str, name: str, at: Place) -> Iterator[Fault]:
    if wait not in journey.waits:
        near = nearest(wait, journey.waits)
        exist = f"waits of this journey: {quoted(journey.waits)}" if journey.waits else "this journey has no wait"
        hint = f"did you mean {quoted(near[:1])}?" if near else exist
        yield _fault("unknown-wait", at, f"the template uses 'waited.{wait}', and no wait is called {wait!r}", hint)
    elif wait not in journey.before[name]:
        message = f"the template uses 'waited.{wait}', and no path leads from {wait!r} to here"
        yield _fault("wait-comes-later", at, message, "name a wait that users pass before")


def element_warnings(document: JourneyDocument, schema: Schema) -> list[Fault]:
    """Find what is probably not meant.

    Args:
        document: A journey without faults.
        schema: The columns of the tables.

    Returns:
        Warnings, with paths and without files and lines.
    """
    warnings: list[Fault] = []
    for name, entry in document.entries.items():
        every = entry.schedule.every if isinstance(entry, AudienceEntry) and entry.schedule is not None else None
        if every is not None and document.reentry == "never":
            message = f"the audience comes in every {every}, and under `reentry: never` each user enters once at most"
            hint = (
                "right for taking in whoever joins the segment later; otherwise write `reentry: after_exit`, or "
                "`{at_most: 1, per: 30d}`"
            )
            warnings.append(_fault("recurring-never", ("entries", name, "schedule"), message, hint))
    users = schema.get("users", {})
    for name, element in document.elements.items():
        if isinstance(element, UpdateUser):
            warnings += [
                _fault(
                    "new-attribute",
                    ("elements", name, "set", attribute),
                    f"users have no attribute {attribute!r} yet: the first update adds it",
                    f"did you mean {quoted(near[:1])}?" if (near := nearest(attribute, list(users))) else "",
                )
                for attribute in element.set
                if attribute not in users
            ]
    if unguarded := _unguarded(document):
        names = quoted(unguarded)
        warnings.append(
            _fault(
                "unguarded-push",
                ("elements", unguarded[0]),
                f"no reachability check comes before {names}: users without a reachable device arrive too, and are "
                "skipped there",
                "lead the branch `reachable` of a reachability-check to it, or give it `branches: {accepted: ..., "
                "not_accepted: ...}`",
            )
        )
    return warnings


def _unguarded(document: JourneyDocument) -> Sequence[str]:
    """List the pushes that users reach whom nothing was asked of, and that do not tell whom they reached."""
    waiting = [entry.next for entry in document.entries.values()]
    passed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in passed or name not in document.elements:
            continue
        passed.add(name)
        element = document.elements[name]
        ways = ways_out(element)
        if isinstance(element, ReachabilityCheck):
            ways.pop("reachable")
        waiting.extend(ways.values())
    found = document.elements.items()
    return [name for name, one in found if name in passed and isinstance(one, Push) and one.branches is None]


def _no_entry(at: Place, what: str) -> Fault:
    hint = "a trigger-entry or an api-entry gives values to those who enter; an audience gives none"
    return _fault("no-entry-event", at, f"{what} has no value: no entry of this journey gives an event", hint)


def _no_wait(at: Place, what: str) -> Fault:
    hint = "lead users through a wait-for-trigger for an event first"
    return _fault("no-awaited-event", at, f"{what} has no value: no event was waited for before", hint)


def _unknown_goal(goal: str, goals: list[str], at: Place) -> Fault:
    near = nearest(goal, goals)
    exist = f"goals: {quoted(goals)}" if goals else "it has none: add `goals: {NAME: {trigger: {event: ...}}}`"
    hint = f"did you mean {quoted(near[:1])}?" if near else exist
    return _fault("unknown-goal", at, f"{goal!r} is no goal of this journey", hint)


def _fault(code: str, at: Place, message: str, hint: str = "") -> Fault:
    return Fault(code=code, path=render_path(at), message=message, hint=hint)
