"""Entering by a client's word: the API entry of a journey that runs."""

from __future__ import annotations

import asyncio
from uuid import NAMESPACE_URL, uuid5

from temporalio import activity

from activities.entry import EVERYONE
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.records.admissions import Admission, Arrival
from activities.records.catalogue import SavedJourney
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
        life = await asyncio.to_thread(stores.ledger.life, request.journey)
        # Tried again, it starts whom it has admitted, whatever turn the journey has taken since.
        if life is None or (life.state != "running" and activity.info().attempt == 1):
            raise RefusedError(
                f"the journey {request.journey!r} is {life.state if life else 'not started'}: nobody enters"
            )
        saved = stores.catalogue.journey(life.digest)
        entry = _api_entry(saved, given.entry)
        asked = stores.memberships.membership(EVERYONE, "UTC", request.now, seen=request.now)
        known = (await at_hand(asked)).ids
        entered: list[str] = []
        refused: dict[str, str] = {}

        async def one(user: UserGiven, place: int) -> None:
            arrival = self._arrival(request, saved, life.version, entry, user, f"{given.request}/{place}")
            reason = _key_reason(saved, arrival.key, user) or ("" if known.holds(user.user_id) else "unknown-user")
            passage = uuid5(NAMESPACE_URL, arrival.enrolment).hex
            if reason:
                reason = await stores.ledger.refuse(arrival, user.user_id, passage, reason)
            admission = (
                Admission(passage, user.user_id, refused=reason)
                if reason
                else (await stores.ledger.admit(arrival, [user.user_id], passage))[0]
            )
            if admission.refused:
                refused[user.user_id] = admission.refused
                return
            if not admission.started:
                await self._starter.start(activity.client(), Way(saved, life.version, entry, arrival.key), admission)
            entered.append(stores.ids.workflow_id(request.journey, user.user_id, arrival.key))

        await asyncio.gather(*(one(user, place) for place, user in enumerate(given.users)))
        return EnterReport(entered=sorted(entered), refused=dict(sorted(refused.items())))

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
