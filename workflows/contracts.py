"""What crosses the wire: names, inputs, results, and the signatures of the activities.

Any Temporal client, in any language, starts the workflows by name with one JSON object; the models here say which.
Fields are added, never renamed or removed. The signatures have no body: `activities/` implements the same names.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self, TypeAlias
from urllib.parse import quote, unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from temporalio import activity
from temporalio.common import SearchAttributeKey

from workflows.errors import DefinitionError, Fault, RefusedError, as_application_error
from workflows.graph import Route

JOURNEYS_QUEUE = "journeys"
"""Task queue of `Journey` alone, so that a backlog of users never delays an operator."""
USERS_QUEUE = "users"
"""Task queue of `UserJourney` and the activities that decide."""
PUSH_QUEUE = "push"
"""Task queue of pushes, rate-limited and retried on its own."""

JOURNEY_ID = SearchAttributeKey.for_keyword("JourneyId")
JOURNEY_VERSION = SearchAttributeKey.for_keyword("JourneyVersion")
JOURNEY_USER_ID = SearchAttributeKey.for_keyword("JourneyUserId")
JOURNEY_ELEMENT = SearchAttributeKey.for_keyword("JourneyElement")
SEARCH_ATTRIBUTES = (JOURNEY_ID, JOURNEY_VERSION, JOURNEY_USER_ID, JOURNEY_ELEMENT)
"""The first three are set when a workflow starts, the last when a run begins to wait; a worker creates them."""

ENGINE = 1
"""Which semantics a run follows. It rises with every change of command order, and old runs keep theirs."""

WORKFLOW_ID_LIMIT = 1_000
"""Longest workflow id that a Temporal server takes (its dynamic setting `limit.maxIDLength`)."""

Due: TypeAlias = Literal["now", "shift", "skip"]
"""What becomes of what fell due in a pause: done at once, as much later as the pause lasted, or skipped."""

Inside: TypeAlias = Literal["keep", "move", "end"]
"""What becomes of those inside when a later version takes over: they finish theirs, go on in it, or leave."""

Versions: TypeAlias = dict[str, int]
"""Table name to the version that an answer was read from; -1 for a table that does not exist."""


class Wire(BaseModel):
    """What every message shares: immutable, and open to fields of a later version."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Given(Wire):
    """What a client starts a workflow with. Input that does not read fails the run, with the faults.

    Any other error would fail the workflow's task, which the server tries again for ever.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _readable(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(data)
        except ValidationError as error:
            faults = [
                Fault(
                    code="wrong-input",
                    path=".".join(map(str, one["loc"])),
                    message=f"{str(one['input'])[:80]!r} is refused: {one['msg']}",
                    hint=f"the input is one JSON object with: {', '.join(cls.model_fields)}",
                )
                for one in error.errors(include_url=False)
            ]
            raise as_application_error(DefinitionError(faults)) from None


class Lean(Wire):
    """A message of one user's run: fields at their defaults are left out, since each user pays for every byte."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {name: value for name, value in dump(self).items() if getattr(self, name) != fields[name].default}


def journey_workflow_id(journey: str) -> str:
    """Give the workflow id of a journey.

    Args:
        journey: Its name.

    Returns:
        `journey/{journey}`.
    """
    return f"journey/{quote(journey, safe='')}"


def user_workflow_id(journey: str, user_id: str, key: str = "") -> str:
    """Give the workflow id of one user's run.

    Args:
        journey: The journey's name.
        user_id: The user.
        key: What else tells this run from others of the same user, such as an order id.

    Returns:
        `journey/{journey}/user/{user_id}`, with `/key/{key}` for keyed runs; each part percent-encoded.

    Raises:
        RefusedError: The id would be longer than Temporal takes.
    """
    found = f"{journey_workflow_id(journey)}/user/{quote(user_id, safe='')}" + (
        f"/key/{quote(key, safe='')}" if key else ""
    )
    if len(found) > WORKFLOW_ID_LIMIT:
        raise RefusedError(
            f"the user id {user_id[:40]!r}... makes a workflow id of {len(found)} characters; Temporal takes "
            f"{WORKFLOW_ID_LIMIT}: shorten the id",
            code="id-too-long",
        )
    return found


def user_of_workflow(workflow_id: str) -> tuple[str, str]:
    """Read who passes by a run from its workflow id.

    Args:
        workflow_id: As `user_workflow_id` gives it.

    Returns:
        User id and key; the key is empty for runs without one.
    """
    parts = workflow_id.split("/")
    return unquote(parts[3]), unquote(parts[5]) if len(parts) > 5 else ""


# --- One user's run ---------------------------------------------------------------------------------------------


class Place(Lean):
    """Where a run goes on that continues as new: on its own, or in another version."""

    element: str
    step: int
    """The step that the visit to it has, or will have."""
    until: datetime | None = None
    """How long the element said it would wait, UTC; null when it was not asked yet."""


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
    engine: int = ENGINE
    """The semantics to follow."""
    place: Place | None = None
    """Where the run goes on, admitted long ago; null for a run that begins."""


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
    reason: str
    """`end` at an exit; else why."""


class EntryOutcome(Lean):
    """What became of an admission."""

    admitted: bool
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
    since: datetime | None = None
    """When the element before was visited, UTC: events from then on count for a wait; null: since `now`."""
    seen: datetime | None = None
    """When the run last learned of an event or update, UTC: no older answer may serve it."""
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


class PathStep(Lean):
    """One element of the way a user took."""

    element: str
    branch: str
    because: str = ""


class UserJourneyResult(Lean):
    """How a run ended."""

    admitted: bool
    reason: str
    """`end` at an exit; the reason of the refusal, or of the early end."""
    exit: str = ""
    """The exit element."""


# --- One journey's life -----------------------------------------------------------------------------------------


class JourneyInput(Given):
    """Starts a journey: a saved one by name, or a definition sent as it is, which is saved first."""

    journey: str = ""
    """Name of a saved journey."""
    version: int = 0
    """Which version; 0: the newest."""
    definition: dict[str, Any] | None = None
    """A whole journey document. It cannot hold `file`: a worker cannot read the client's disk."""


class OpenRequest(Wire):
    """Asks that a journey be set running."""

    input: JourneyInput
    workflow_id: str
    launch: str
    """Names this start of the journey."""
    now: datetime


class OpenedJourney(Wire):
    """A journey that is running."""

    journey: str
    version: int
    digest: str
    title: str = ""
    audience_entries: list[str]
    """The entries whose audience enters now."""


class EnrolmentRequest(Wire):
    """Names one admission of one entry's audience."""

    enrolment: str
    journey: str
    version: int
    digest: str
    entry: str
    now: datetime


class Audience(Wire):
    """An audience as it was evaluated: the snapshot is kept under the enrolment's id."""

    enrolment: str
    users: int
    as_of: datetime
    tables: Versions


class Enrolled(Wire):
    """What an enrolment did."""

    audience: int
    entered: int
    refused: int


class JourneyRequest(Wire):
    """Asks about, or ends, one version of a journey."""

    journey: str
    version: int
    launch: str
    now: datetime


class ElementStats(Wire):
    """Counts of one element. arrived = inside + all branches + all left."""

    arrived: int = 0
    inside: int = 0
    branches: dict[str, int] = {}
    """Users who took each branch."""
    left: dict[str, int] = {}
    """Users whose journey ended here, by reason; `end` at an exit."""
    users: dict[str, int] = {}
    """Users by outcome, where the element acts."""
    devices: dict[str, int] = {}
    """Devices by outcome, where the element sends."""


State: TypeAlias = Literal["draft", "running", "finished"]


class Stats(Wire):
    """The numbers of one version. audience = entered + refused; entered = inside + exited."""

    journey: str
    version: int
    state: State
    as_of: datetime
    audience: int = 0
    entered: int = 0
    refused: dict[str, int] = {}
    """Refusals by reason."""
    inside: int = 0
    exited: dict[str, int] = {}
    """Users who left, by reason."""
    elements: dict[str, ElementStats] = {}


class JourneyStatus(Wire):
    """Where a journey's life is: the answer of the query `status`."""

    journey: str
    version: int
    state: State
    doing: str
    """What the journey is busy with, for a person."""
    audience: int | None = None
    """Users in all audiences of this start; null until the last one is evaluated."""


# --- Signatures -------------------------------------------------------------------------------------------------


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


@activity.defn(name="open-journey")
async def open_journey(request: OpenRequest) -> OpenedJourney:
    """Check and save what is to run, and write down that it runs."""
    raise NotImplementedError


@activity.defn(name="evaluate-audience")
async def evaluate_audience(request: EnrolmentRequest) -> Audience:
    """Evaluate an entry's audience once, and keep the snapshot."""
    raise NotImplementedError


@activity.defn(name="enrol")
async def enrol(request: EnrolmentRequest) -> Enrolled:
    """Admit the snapshot's users page by page and start their runs."""
    raise NotImplementedError


@activity.defn(name="wait-until-empty")
async def wait_until_empty(request: JourneyRequest) -> Stats:
    """Return when nobody is inside; fail retryably, with the number, while somebody is."""
    raise NotImplementedError


@activity.defn(name="close-journey")
async def close_journey(request: JourneyRequest) -> Stats:
    """Write down that the journey is finished, and return its numbers."""
    raise NotImplementedError


@activity.defn(name="count")
async def count(request: JourneyRequest) -> Stats:
    """Count where everybody is."""
    raise NotImplementedError
