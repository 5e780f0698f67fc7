"""One user's run: what it is started with, what its activities are asked, and what they answer.

The signatures have no body: `activities/` implements the same names.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from temporalio import activity

from workflows.graph import Route
from workflows.wire import Given, Lean

ENGINE = 1
"""Which semantics a run follows. It rises with every change of command order, and old runs keep theirs."""


class PathStep(Lean):
    """One element of the way a user took."""

    element: str
    branch: str
    because: str = ""


class Place(Lean):
    """Where a run goes on that continues as new: on its own, or in another version."""

    element: str
    step: int
    """The step that the visit to it has, or will have."""
    until: datetime | None = None
    """How long the element said it would wait, UTC; null when it was not asked yet."""
    woken: bool = False
    """Whether a signal has come that the element was not asked about yet."""
    leave: str = ""
    """Why the user has to leave, where a signal has said so."""
    path: list[PathStep] = []
    """The way so far: no longer than the journey has elements."""


class UserJourneyInput(Given, Lean):
    """Starts a run. A client gives `journey` and `user_id`; enrolment fills in the rest."""

    journey: str
    """The journey's name."""
    user_id: str
    """Who passes through it."""
    key: str = ""
    """Tells parallel runs of one user apart; empty where one run at a time is allowed."""
    entry: str = ""
    """The entry taken; empty: the journey's first."""
    passage: str = ""
    """The admission's id; empty when the run itself asks to be admitted."""
    version: int = 0
    """The saved version; 0: the one that is running."""
    digest: str = ""
    """The version's content; empty: looked up on entry."""
    routes: dict[str, Route] = {}
    """The version's routes; empty: given on entry."""
    engine: int = 1
    """The semantics to follow: `ENGINE` as the run began, which whoever starts it has to give; else the first.

    Messages leave out what they have by default: a default that rose would change the runs that are under way.
    """
    place: Place | None = None
    """Where the run goes on, admitted long ago; null for a run that begins."""
    seen: datetime | None = None
    """When the run last learned of an event or update, UTC; as it begins, when the tables were looked at for it."""
    outbox: bool = False
    """As the entry has told it: see `EntryOutcome`."""


class EntryRequest(Lean):
    """Asks that a user be admitted, or confirmed as admitted."""

    journey: str
    user_id: str
    key: str = ""
    entry: str = ""
    passage: str
    admitted: bool = False
    """Whether an enrolment admitted the passage already."""
    digest: str = ""
    needs_routes: bool = False
    now: datetime
    """The workflow's clock, UTC."""


class Leave(Lean):
    """How a passage ended."""

    exit: str
    """The exit element; empty when the user left elsewhere."""
    reason: str = "end"
    """`end` at an exit; else why."""


class EntryOutcome(Lean):
    """What became of an admission."""

    admitted: bool = True
    reason: str = ""
    """Why not, when refused: `entered-before`, `already-inside`, `too-often`, `unknown-user`, `not-running`, `no-key`,
    `unexpected-key`, `time-passed`."""
    version: int = 0
    """The saved version; 0 when the request named its digest, so that the run knows both."""
    digest: str = ""
    """The version's content; empty when the request named it."""
    element: str = ""
    """Where the user arrives first."""
    routes: dict[str, Route] | None = None
    """The version's routes, when the request needed them."""
    left: Leave | None = None
    """Set when the passage is closed already: the run has nothing left to do."""
    until: datetime | None = None
    """When the user comes in, UTC, where that is later: asked again then."""
    outbox: bool = False
    """Whether every device is the outbox's, as of a moment ago: a push is then tried by a local attempt first."""


class EventGiven(Lean):
    """Something a user did. Any client may send it: as the update `event` of `Events`, or the signal of a run."""

    user_id: str = ""
    """Who; the run's own user when left out of a signal."""
    event: str
    """The event's name."""
    event_id: str = ""
    """Names this occurrence, so that a repeat changes nothing; empty: made of the rest."""
    at: datetime | None = None
    """When it happened, UTC; null: now."""
    properties: dict[str, Any] = {}
    """Its values: texts, numbers, booleans, lists of texts."""


class Visit(Lean):
    """One user's visit to one element: what every deciding or acting activity is asked."""

    journey: str
    version: int
    digest: str
    passage: str
    step: int
    """How many elements the user has visited, from 1; the ledger's first answer for it wins."""
    element: str
    user_id: str
    key: str = ""
    now: datetime
    """The workflow's clock, UTC: the instant that the decision is about."""
    until: datetime | None = None
    """What the element answered before to the same visit, UTC; null at its first ask."""
    seen: datetime | None = None
    """When the run last learned of an event or update, UTC: no older answer may serve it."""
    woken: bool = False
    """Whether a signal woke the run: something has changed that a worker's copy may not have yet."""
    event: EventGiven | None = None
    """An event that a client sent to this very run."""
    leave: str = ""
    """Asks that the passage be closed with this reason, wherever it is."""


class Move(Lean):
    """Where a run goes on in another version of its journey."""

    version: int
    digest: str
    routes: dict[str, Route]
    element: str
    """The element at which it goes on: the same one, or the one that takes its place."""
    until: datetime | None = None
    """What the element said before, UTC, where it is the same in both versions; null where it is asked anew."""


class Outcome(Lean):
    """What an element did for a user, as the ledger holds it; or what the run waits for before it asks again."""

    branch: str = ""
    """The way out that the user takes; empty while the user stays."""
    until: datetime | None = None
    """The user stays: ask again at this instant, UTC, or when a signal wakes the run."""
    held: bool = False
    """The user stays: the journey is paused. Ask again when a signal wakes the run."""
    move: Move | None = None
    """The user goes on in another version."""
    learned: bool = False
    """The outcome came from an event or is an update of the user: later answers may not be older."""
    because: str = ""
    """Why, in a few words for a person."""
    left: Leave | None = None
    """Set when the branch leads to an exit: the passage was closed with it."""


class RemoveRequest(Given, Lean):
    """The signal `remove`: the user leaves the journey where he is."""

    reason: str = "removed"
    """Why, as `stats` and `explain` show it."""


class UserJourneyResult(Lean):
    """How a run ended."""

    admitted: bool
    reason: str
    """`end` at an exit; the reason of the refusal, or of the early end."""
    exit: str = ""
    """The exit element."""
    because: str = ""
    """Why, for a person, as the last element said; empty after an ordinary activity, whose own event tells."""


@activity.defn(name="entry")
async def entry(request: EntryRequest) -> EntryOutcome:
    """Admit a user, or refuse with the reason."""
    raise NotImplementedError


@activity.defn(name="condition-split")
async def condition_split(visit: Visit) -> Outcome:
    """Choose between "Users in a segment" and "All other users"."""
    raise NotImplementedError


@activity.defn(name="push")
async def push(visit: Visit) -> Outcome:
    """Send the element's message to the user's reachable devices."""
    raise NotImplementedError


@activity.defn(name="time-delay")
async def time_delay(visit: Visit) -> Outcome:
    """Say until when the user is held; asked again then, let him go on."""
    raise NotImplementedError


@activity.defn(name="wait-for-trigger")
async def wait_for_trigger(visit: Visit) -> Outcome:
    """Begin to wait for something; asked again, say what happened, or that time is over."""
    raise NotImplementedError


@activity.defn(name="split-test")
async def split_test(visit: Visit) -> Outcome:
    """Choose a variant by a hash of user and element."""
    raise NotImplementedError


@activity.defn(name="reachability-check")
async def reachability_check(visit: Visit) -> Outcome:
    """Tell whether the user has a device that can receive a push."""
    raise NotImplementedError


@activity.defn(name="update-user")
async def update_user(visit: Visit) -> Outcome:
    """Write values to the user's attributes."""
    raise NotImplementedError


@activity.defn(name="webhook")
async def webhook(visit: Visit) -> Outcome:
    """Post an object about the user to another system."""
    raise NotImplementedError


@activity.defn(name="leave")
async def leave(visit: Visit) -> Outcome:
    """Close the passage wherever it is, with the reason that the visit names."""
    raise NotImplementedError
