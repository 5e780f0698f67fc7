"""The entry activity: admit a user, or refuse with the reason."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.faults import as_failures
from activities.heartbeats import beating
from activities.records.admissions import Arrival
from activities.records.passages import Admission
from activities.segments.memberships import at_hand
from activities.stores import Stores, leave_by
from workflows.conditions import Everyone
from workflows.contracts import EntryOutcome, EntryRequest
from workflows.documents import Keyed, ways_out
from workflows.errors import NotFoundError, RefusedError

EVERYONE = Everyone(everyone=True)


class EntryActivities:
    """Admits users.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="entry")
    @as_failures
    @beating
    async def entry(self, request: EntryRequest) -> EntryOutcome:
        """Admit a user, or confirm what an enrolment admitted.

        Args:
            request: Who, where, and by which passage.

        Returns:
            Where the user arrives, or why not. A passage that is closed comes back with how it ended.

        Raises:
            ApplicationError: The ledger or tables cannot be reached, which Temporal retries; or the journey is unknown,
                which it does not.
        """
        stores = self._stores
        known = request.admitted and bool(request.digest)
        if known:
            saved, entry = stores.catalogue.journey(request.digest), request.entry
        else:
            self._require_id(request)
            admission = await self._admit(request)
            if admission.refused:
                return EntryOutcome(admitted=False, reason=admission.refused)
            # Asked again, the version is the one that admitted the user, not the one that runs by now.
            found = await asyncio.to_thread(stores.catalogue.find, "journey", request.journey, admission.version)
            saved, entry = stores.catalogue.journey(found.digest), admission.entry
        first = ways_out(saved.document.entries[entry])["next"]
        begun = await stores.ledger.begin(request.passage, request.now, leave_by(saved, first))
        if begun is None:
            raise NotFoundError(
                f"the ledger holds no passage {request.passage!r} of {request.journey!r}: this worker's ledger is not "
                "the one that admitted it; see the setting JOURNEYS_DATABASE"
            )
        return EntryOutcome(
            admitted=True,
            version=0 if known else begun.version,
            digest="" if known else saved.digest,
            element=first,
            routes=saved.routes if request.needs_routes else None,
            left=begun.left,
            until=begun.enters_at if begun.enters_at is not None and begun.enters_at > request.now else None,
            outbox=await stores.profiles.outbox_alone(),
        )

    async def _admit(self, request: EntryRequest) -> Admission:
        """Admit a user whose run a client started: by the same rules as everybody.

        Returns:
            The passage in the version that runs, or why there is none.
        """
        ledger = self._stores.ledger
        if (admitted := await asyncio.to_thread(ledger.admission, request.passage)) is not None:
            return admitted
        while (admission := await self._admit_now(request)) is None:
            pass  # another version has taken over in this moment: he enters that one
        return admission

    async def _admit_now(self, request: EntryRequest) -> Admission | None:
        """Admit a user in the version that runs; None when another one has taken over meanwhile."""
        stores, ledger = self._stores, self._stores.ledger
        life = await asyncio.to_thread(ledger.life, request.journey)
        if life is None:
            raise NotFoundError(
                f"the journey {request.journey!r} was never started: start it first, with: "
                f"journeys start {request.journey}"
            )
        document = stores.catalogue.journey(life.digest).document
        entry = request.entry or next(iter(document.entries))
        if entry not in document.entries:
            raise NotFoundError(f"{request.journey!r} has no entry {entry!r}; it has: {', '.join(document.entries)}")
        arrival = Arrival(
            enrolment=request.passage,
            journey=request.journey,
            version=life.version,
            entry=entry,
            reentry=document.reentry,
            at=request.now,
            key=request.key,
            cap=document.entry_cap,
            while_running=True,
        )
        reason = "" if life.state == "running" else "not-running"
        if not reason and bool(request.key) != isinstance(document.reentry, Keyed):
            reason = "unexpected-key" if request.key else "no-key"
        if not reason and not await self._known(request):
            reason = "unknown-user"
        if reason:
            reason = await ledger.refuse(arrival, request.user_id, request.passage, reason)
            return Admission(request.passage, request.user_id, refused=reason)
        admissions = await ledger.admit(arrival, [request.user_id], request.passage)
        return admissions[0] if admissions else None

    def _require_id(self, request: EntryRequest) -> None:
        """Refuse a run under another id than the user's: only that id keeps two runs of one user apart."""
        given = activity.info().workflow_id
        expected = self._stores.ids.workflow_id(request.journey, request.user_id, request.key)
        if given != expected:
            raise RefusedError(
                f"the run of user {request.user_id!r} was started with the workflow id {given!r}: start it with "
                f"{expected!r}",
                code="wrong-workflow-id",
            )

    async def _known(self, request: EntryRequest) -> bool:
        """Tell whether the table of users has this user, as of now."""
        asked = self._stores.memberships.membership(EVERYONE, "UTC", request.now, seen=request.now)
        return (await at_hand(asked)).ids.holds(request.user_id)
