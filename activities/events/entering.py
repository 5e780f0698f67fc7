"""Entering by an event: which trigger entries mean it, who is admitted, and the runs that it starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.client import Client

from activities.events.occurrences import Judge, Occurrence
from activities.records.admissions import Arrival, passage_id
from activities.records.catalogue import Catalogue, SavedJourney
from activities.records.gate import Life
from activities.records.ledger import Ledger
from activities.records.passages import Admission
from activities.starting import Starter, Way
from activities.tables.properties import as_cell
from workflows.documents import Keyed, TriggerEntry

ALIVE = ("running", "paused")
"""States in which a journey answers to events: a paused one by a refusal."""


@dataclass(frozen=True)
class Door:
    """A trigger entry of a journey that runs, or is paused.

    Attributes:
        life: The journey's life.
        saved: The version that admits.
        entry: The entry's id.
        trigger: The entry.
    """

    life: Life
    saved: SavedJourney
    entry: str
    trigger: TriggerEntry


def doors_of(lives: Mapping[str, Life], catalogue: Catalogue) -> dict[str, list[Door]]:
    """List the trigger entries of all journeys by the event that they wait for. Blocking where a version is new."""
    found: dict[str, list[Door]] = {}
    for life in lives.values():
        if life.state in ALIVE:
            saved = catalogue.journey(life.digest)
            for name, entry in saved.document.entries.items():
                if isinstance(entry, TriggerEntry):
                    found.setdefault(entry.trigger.event, []).append(Door(life, saved, name, entry))
    return found


def open_doors(doors: Iterable[Door], event: Occurrence, judge: Judge) -> list[Door]:
    """Find the entries that an event goes through: of each journey the first whose condition is true of it.

    Args:
        doors: Those that wait for an event of its name.
        event: The event; `{entry: X}` in a condition is a value of its own.
        judge: Judges the conditions.

    Returns:
        At most one entry of each journey.
    """
    found: dict[str, Door] = {}
    for door in doors:
        where, zone = door.trigger.trigger.where, door.saved.document.timezone
        if door.life.journey not in found and judge(where, event, entry=event.properties, zone=zone):
            found[door.life.journey] = door
    return list(found.values())


class TakenOver(Exception):
    """Another version of the journey has taken over: its entries decide."""


class Entering:
    """Admits users by events, and starts their runs.

    Args:
        ledger: Where admissions are written down.
        starter: Starts runs.
    """

    def __init__(self, ledger: Ledger, starter: Starter) -> None:
        self._ledger = ledger
        self._starter = starter

    async def enter(self, client: Client, door: Door, event: Occurrence) -> str | None:
        """Admit the user of an event, and start the run.

        Asked again, the first answer: neither a repeated event nor a retry lets anybody enter twice.

        Args:
            client: Reaches the server.
            door: The entry.
            event: The event. Its values stay with the passage.

        Returns:
            The passage that was started; None where the user was refused, with the reason in the ledger.

        Raises:
            TakenOver: Another version runs by now. Nobody was admitted, and nobody refused.
            StoreUnavailable: The ledger cannot be written, or another run holds the workflow id. Temporal retries.
        """
        life, document = door.life, door.saved.document
        key = ""
        if isinstance(document.reentry, Keyed):
            key = (as_cell(event.properties.get(document.reentry.name)) or "").strip()
        arrival = Arrival(
            enrolment=f"event/{event.event_id}/{life.journey}/{door.entry}",
            journey=life.journey,
            version=life.version,
            entry=door.entry,
            reentry=document.reentry,
            at=event.taken_at,
            key=key,
            cap=document.entry_cap,
            properties=event.properties,
            event_id=event.event_id,
            while_running=True,
        )
        if isinstance(document.reentry, Keyed) and not key:
            await self._ledger.refuse(arrival, event.user_id, passage_id(arrival.enrolment, event.user_id), "no-key")
            return None
        # In a paused journey a refusal; who was admitted before the pause and not started is started all the same.
        admissions = await self._ledger.admit(arrival, [event.user_id])
        if not admissions:
            raise TakenOver
        return await self._start(client, Way(door.saved, life.version, door.entry, key), admissions[0])

    async def _start(self, client: Client, way: Way, admission: Admission) -> str | None:
        if admission.refused:
            return None
        if not admission.started and admission.left is None:
            # The event is in the tables by now, so the run's splits see it.
            await self._starter.start(client, way, admission, seen=datetime.now(UTC))
        return admission.passage
