"""Entering by a client's word: the API entry of a journey that runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Row
from temporalio import activity

from activities.entry import EVERYONE
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.records.admissions import Arrival
from activities.records.catalogue import SavedJourney
from activities.records.passages import Admission
from activities.segments.memberships import at_hand
from activities.starting import Starter, Way
from activities.stores import Stores
from workflows.contracts import EnterReport, EnterRequest, LifeRequest, UserGiven
from workflows.documents import ApiEntry, Keyed
from workflows.errors import RefusedError


class EnteringActivities:
    """Admits users whom a client names.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._starter = Starter(stores.ids, stores.catalogue)

    @activity.defn(name="enter")
    @as_failures
    @beating
    async def enter(self, request: LifeRequest) -> EnterReport:
        """Admit users by the API entry, and start their runs.

        Args:
            request: Which journey, and who.

        Returns:
            The runs, and the reason for each user who was refused. Asked again, the same answer.

        Raises:
            ApplicationError: The journey has no such entry, which Temporal does not retry; or a store or the server
                cannot be reached, which it does.
        """
        given, stores = request.enter or EnterRequest(users=[]), self._stores
        first = await asyncio.to_thread(stores.ledger.life, request.journey)
        # Tried again, it starts whom it has admitted, whatever turn the journey has taken since.
        if first is None or (first.state != "running" and activity.info().attempt == 1):
            raise RefusedError(
                f"the journey {request.journey!r} is {first.state if first else 'not started'}: nobody enters"
            )
        asked = stores.memberships.membership(EVERYONE, "UTC", request.now, seen=request.now)
        known = (await at_hand(asked)).ids
        entered: list[str] = []
        refused: dict[str, str] = {}

        async def one(user: UserGiven, place: int) -> None:
            life = first
            while (found := await self._admitted(request, life, user, place, known.holds(user.user_id))) is None:
                # Another version has taken over in this moment: he enters that one.
                now = await asyncio.to_thread(stores.ledger.life, request.journey)
                life = now or life
            way, admission = found
            if admission.refused:
                refused[user.user_id] = admission.refused
                return
            if not admission.started:
                await self._starter.start(activity.client(), way, admission, seen=datetime.now(UTC))
            entered.append(stores.ids.workflow_id(request.journey, user.user_id, way.key))

        _api_entry(stores.catalogue.journey(first.digest), given.entry)
        await asyncio.gather(*(one(user, place) for place, user in enumerate(given.users)))
        return EnterReport(entered=sorted(entered), refused=dict(sorted(refused.items())))

    async def _admitted(
        self, request: LifeRequest, life: Row[Any], user: UserGiven, place: int, known: bool
    ) -> tuple[Way, Admission] | None:
        """Admit one user in a version, or say why not; None when another version has taken over meanwhile."""
        given, ledger = request.enter or EnterRequest(users=[]), self._stores.ledger
        saved = self._stores.catalogue.journey(life.digest)
        entry = _api_entry(saved, given.entry)
        arrival = self._arrival(request, saved, life.version, entry, user, f"{given.request}/{place}")
        way, passage = Way(saved, life.version, entry, arrival.key), uuid5(NAMESPACE_URL, arrival.enrolment).hex
        reason = _key_reason(saved, arrival.key, user) or ("" if known else "unknown-user")
        if reason:
            reason = await ledger.refuse(arrival, user.user_id, passage, reason)
            return way, Admission(passage, user.user_id, refused=reason)
        admissions = await ledger.admit(arrival, [user.user_id], passage)
        return (way, admissions[0]) if admissions else None

    def _arrival(
        self, request: LifeRequest, saved: SavedJourney, version: int, entry: str, user: UserGiven, name: str
    ) -> Arrival:
        document = saved.document
        key = user.key
        if not key and isinstance(document.reentry, Keyed):
            key = str(user.values.get(document.reentry.name, ""))
        return Arrival(
            enrolment=f"enter/{request.journey}/{name}",
            journey=request.journey,
            version=version,
            entry=entry,
            reentry=document.reentry,
            at=request.now,
            key=key,
            cap=document.entry_cap,
            properties=user.values,
            while_running=True,
        )


def _api_entry(saved: SavedJourney, name: str) -> str:
    """Give the API entry that is meant.

    Raises:
        RefusedError: There is none, or several and none is named.
    """
    entries = [entry for entry, one in saved.document.entries.items() if isinstance(one, ApiEntry)]
    if name and name not in entries:
        raise RefusedError(
            f"{name!r} is no API entry of {saved.document.journey!r}; it has: {', '.join(entries) or 'none'}"
        )
    if not name and len(entries) != 1:
        raise RefusedError(
            f"{saved.document.journey!r} has {len(entries)} API entries ({', '.join(entries)}): name one"
            if entries
            else f"{saved.document.journey!r} has no API entry: users enter it by its audience or by events"
        )
    return name or entries[0]


def _key_reason(saved: SavedJourney, key: str, user: UserGiven) -> str:
    """Refuse a user whose run would have no key in a keyed journey, or one in another."""
    if isinstance(saved.document.reentry, Keyed):
        return "" if key else "no-key"
    return "unexpected-key" if user.key else ""
