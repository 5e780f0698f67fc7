"""Checking the triggers of a journey: entries, waits and goals whose events and conditions have to make sense."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from activities.events.occurrences import PUSH_OPENED
from activities.segments.checking import check_condition
from activities.tables.delta import Tables
from activities.tables.schema import Kind, Schema
from workflows.conditions import Path, render_path
from workflows.documents import AudienceEntry, JourneyDocument, Keyed, Trigger, WaitForTrigger
from workflows.errors import Fault
from workflows.scalars import nearest, quoted
from workflows.triggers import triggers_of

OF_OPENS: dict[str, Kind] = {"push_id": "string", "journey": "string", "element": "string"}
"""The properties with which opened pushes come."""

UNKNOWN_PROPERTY = "unknown-property"


def triggers_in(document: JourneyDocument) -> Iterator[tuple[Path, Trigger]]:
    """List the triggers of a journey, each with its place."""
    for name, entry in document.entries.items():
        for at, trigger in triggers_of(entry):
            yield ("entries", name, *at), trigger
    for name, element in document.elements.items():
        if isinstance(element, WaitForTrigger):
            for branch, way in element.branches.own.items():
                for at, trigger in triggers_of(way):
                    yield ("elements", name, "branches", branch, *at), trigger
    for name, goal in document.goals.items():
        yield ("goals", name, "trigger"), goal.trigger


def trigger_faults(document: JourneyDocument, schema: Schema) -> tuple[list[Fault], list[Fault]]:
    """Check the conditions of triggers, and that a keyed journey has a key.

    Args:
        document: A journey whose models are valid.
        schema: The columns of the tables, each with its kind.

    Returns:
        Faults and warnings. A property that no event had yet is a warning: the first such event may be still to come.
    """
    faults, warnings = list(_without_key(document)), []
    for at, trigger in triggers_in(document):
        if trigger.where is None:
            continue
        known = schema
        if trigger.event == PUSH_OPENED:
            known = {**schema, "events": {**OF_OPENS, **schema.get("events", {})}}
        for fault in check_condition(
            trigger.where, known, at=(*at, "where"), segments=None, one_user=True, subject="event"
        ):
            if fault.code == UNKNOWN_PROPERTY:
                said = f"{fault.message}: until an event has it, this is false"
                warnings.append(fault.model_copy(update={"message": said}))
            else:
                faults.append(fault)
    return faults, warnings


def unknown_events(document: JourneyDocument, tables: Tables) -> list[Fault]:
    """Warn of triggers that wait for an event which nobody did yet: its name may be misspelt.

    Raises:
        StoreUnavailable: The tables cannot be read.
    """
    asked = [(at, trigger) for at, trigger in triggers_in(document) if trigger.event != PUSH_OPENED]
    if not asked:
        return []
    known = set(tables.collect(tables.scan("events").select(pl.col("event").unique())).get_column("event"))
    return [
        Fault(
            code="unknown-event",
            path=render_path((*at, "event")),
            message=f"nobody did {trigger.event!r} yet",
            hint=f"did you mean {quoted(near)}?" if (near := nearest(trigger.event, sorted(known))) else "",
        )
        for at, trigger in asked
        if trigger.event not in known
    ]


def _without_key(document: JourneyDocument) -> Iterator[Fault]:
    """Find entries by which nobody could enter, since they bring no value that could be the key."""
    if not isinstance(document.reentry, Keyed):
        return
    for name, entry in document.entries.items():
        if isinstance(entry, AudienceEntry):
            yield Fault(
                code="keyed-audience",
                path=f"entries.{name}",
                message=f"an audience has no entry event, so there is no {document.reentry.key!r} to tell runs apart",
                hint="let users enter by an event or by the API, or write another `reentry`",
            )
