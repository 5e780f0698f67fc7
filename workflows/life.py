"""One journey's life: what it is started with, its updates and queries, what its activities are asked and answer.

The signatures have no body: `activities/` implements the same names.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from temporalio import activity

from workflows.triggers import Schedule
from workflows.wire import Due, Given, Inside, State, Versions, Wire


class JourneyPlace(Wire):
    """Where a journey's life goes on that continues as new."""

    launch: str
    opened: OpenedJourney
    audience: int | None = None
    finishing: bool = False
    paused: bool = False
    stats: Stats | None = None
    """The last count; null before the first, and in lives that an older worker continued."""


class JourneyInput(Given):
    """Starts a journey: a saved one by name, or a definition sent as it is, which is saved first."""

    journey: str = ""
    """Name of a saved journey."""
    version: int = 0
    """Which version; 0: the newest."""
    definition: dict[str, Any] | None = None
    """A whole journey document. It cannot hold `file`: a worker cannot read the client's disk."""
    place: JourneyPlace | None = None
    """Where the life goes on, opened long ago; null for a journey that begins."""


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
    scheduled_entries: list[str] = []
    """The entries whose audience enters by a schedule."""
    admits: bool = False
    """Whether users may enter after the start: by an event, a client's word, or a schedule."""
    admits_until: datetime | None = None
    """When the last of them may enter, UTC, where the dates are known; null: no end is known."""


class EnrolmentRequest(Wire):
    """Names one admission of one entry's audience."""

    enrolment: str
    journey: str
    version: int
    digest: str
    entry: str
    now: datetime
    schedule: Schedule | None = None
    """The entry's schedule, where that is why the audience enters now."""
    day: date | None = None
    """The day at whose `schedule.time` users enter, each on the clock that the schedule names; null: at once."""


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
    skipped: str = ""
    """Why no audience was evaluated: the journey is `paused` or `finished`, has `no-entry` of that name any more, or
    nothing is due at the time, `not-due`."""


class JourneyRequest(Wire):
    """Asks about, or ends, one version of a journey."""

    journey: str
    version: int
    launch: str
    now: datetime
    admits: bool = False
    """Whether users may still enter: then nobody inside is no end."""


class ScheduleRequest(Wire):
    """Asks that the schedules of a journey's entries be as they should."""

    journey: str
    version: int
    digest: str
    launch: str = ""
    """Names this start of the journey."""
    entries: list[str]
    """The entries that have a schedule; none: all schedules of the journey are taken away."""
    paused: bool = False
    opening: bool = False
    """Whether the journey starts: then what its first day has had due is caught up with."""
    started_at: datetime
    """The instant, UTC: periods of schedules that are new count from here."""


class ResumeRequest(Given):
    """The update `resume`: what becomes of what fell due in the pause."""

    due: Due = "now"


class FinishRequest(Given):
    """The update `finish`: nobody enters any more."""

    inside: Literal["keep", "end"] = "keep"
    """Those inside go on to their ends, or leave at once."""


class ReviseRequest(Given):
    """The update `revise`: another version takes over."""

    version: int = 0
    """A saved version of the journey; 0: the newest."""
    definition: dict[str, Any] | None = None
    """A whole journey document, saved first."""
    inside: Inside = "keep"
    """Those inside finish the version they are in, go on in the new one at the same element, or leave."""
    mapping: dict[str, str] = {}
    """Old element to the one that takes its place, for those that the new version lacks."""
    enter: bool = False
    """Whether the new version's audience entries without a schedule take in their audience now."""


class UserGiven(Given):
    """A user whom a client lets enter."""

    user_id: str
    key: str = ""
    """The key of a keyed journey; empty: read from the values."""
    values: dict[str, Any] = {}
    """Seen by templates and `{entry: X}`."""


class EnterRequest(Given):
    """The update `enter`: users enter by the API entry."""

    users: list[UserGiven]
    """At most 1,000 at once."""
    entry: str = ""
    """Which API entry; empty: the only one."""
    request: str = ""
    """Names this request, so that its repeat lets nobody enter twice; empty: made by Temporal's id of the update."""


class EnterReport(Wire):
    """What became of users whom a client let enter."""

    entered: list[str] = []
    """Their workflow ids."""
    refused: dict[str, str] = {}
    """User to reason."""


class TakeOutRequest(Given):
    """The update `remove`: a user leaves the journey, in all his runs or in the one of a key."""

    user_id: str
    key: str | None = None
    reason: str = "removed"


class MoveRequest(Given):
    """The update `move`: a user goes on at another element, in the version that runs."""

    user_id: str
    element: str
    key: str | None = None
    """Only the run of this key; null: all his runs."""


class LifeReport(Wire):
    """Where a journey stands after an update."""

    journey: str
    version: int
    state: State
    inside: int = 0
    """Users inside, in all versions."""
    elements: dict[str, int] = {}
    """Users inside by element, in the versions before a revision."""
    signalled: int = 0
    """Runs that were told."""


class LifeRequest(Wire):
    """Asks that a journey's life take a turn."""

    journey: str
    launch: str
    now: datetime
    version: int = 0
    resume: ResumeRequest | None = None
    finish: FinishRequest | None = None
    revise: ReviseRequest | None = None
    enter: EnterRequest | None = None
    take_out: TakeOutRequest | None = None
    move: MoveRequest | None = None


class Revised(Wire):
    """What a revision did."""

    opened: OpenedJourney
    report: LifeReport


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


class GoalStats(Wire):
    """Counts of one goal."""

    converted: int = 0
    """Passages that reached it."""
    by_element: dict[str, int] = {}
    """Those attributed to a push, by its element: the last one opened before, else the last one sent."""
    by_variant: dict[str, dict[str, int]] = {}
    """Those who passed a split test, by its element and variant."""


class Stats(Wire):
    """The numbers of one version. audience = entered + refused; entered + moved in = inside + exited + moved out."""

    journey: str
    version: int
    state: State
    as_of: datetime
    audience: int = 0
    entered: int = 0
    refused: dict[str, int] = {}
    """Refusals by reason."""
    moved_in: int = 0
    """Users who came from another version."""
    inside: int = 0
    exited: dict[str, int] = {}
    """Users who left, by reason."""
    moved_out: int = 0
    """Users who went on in another version."""
    goals: dict[str, GoalStats] = {}
    """Conversions by goal."""
    entries: dict[str, int] = {}
    """Users who entered, by entry."""
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


@activity.defn(name="pause-journey")
async def pause_journey(request: LifeRequest) -> LifeReport:
    """Commit a pause."""
    raise NotImplementedError


@activity.defn(name="resume-journey")
async def resume_journey(request: LifeRequest) -> LifeReport:
    """Commit a resumption, and wake those whom the pause held."""
    raise NotImplementedError


@activity.defn(name="finish-journey")
async def finish_journey(request: LifeRequest) -> LifeReport:
    """Let nobody enter any more, and end those inside where asked."""
    raise NotImplementedError


@activity.defn(name="revise-journey")
async def revise_journey(request: LifeRequest) -> Revised:
    """Have another version take over."""
    raise NotImplementedError


@activity.defn(name="enter")
async def enter(request: LifeRequest) -> EnterReport:
    """Admit users whom a client names, and start their runs."""
    raise NotImplementedError


@activity.defn(name="take-out")
async def take_out(request: LifeRequest) -> LifeReport:
    """Take a user out of the journey."""
    raise NotImplementedError


@activity.defn(name="move")
async def move(request: LifeRequest) -> LifeReport:
    """Have a user go on at another element."""
    raise NotImplementedError


@activity.defn(name="set-schedules")
async def set_schedules(request: ScheduleRequest) -> None:
    """Have the schedules of a journey's entries be as they should."""
    raise NotImplementedError


@activity.defn(name="count")
async def count(request: JourneyRequest) -> Stats:
    """Count where everybody is."""
    raise NotImplementedError
