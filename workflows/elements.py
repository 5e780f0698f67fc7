"""The elements of a journey: what each box says, and where its branches lead.

A new element is one model here, one row in `BRANCH_LABELS` for each fixed branch, and one activity; graph, routes,
statistics and drawings read the branches and need not know the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from workflows.conditions import Condition
from workflows.messages import Document, Message
from workflows.operators import AttributeRef, Comparison, EntryRef, PropertyRef, Value
from workflows.scalars import Duration, Text, duration, refusal
from workflows.triggers import (
    ApiEntry,
    AudienceEntry,
    CalendarDay,
    ElementId,
    LocalTime,
    Trigger,
    TriggerEntry,
    UserOrZone,
    Weekday,
)

USERS_IN_SEGMENT = "users_in_segment"
ALL_OTHER_USERS = "all_other_users"
NOT_TRIGGERED = "not_triggered"

BRANCH_LABELS = {
    USERS_IN_SEGMENT: "Users in a segment",
    ALL_OTHER_USERS: "All other users",
    NOT_TRIGGERED: "Not triggered",
    "reachable": "Reachable",
    "not_reachable": "Not reachable",
    "accepted": "Accepted",
    "not_accepted": "Not accepted",
    "next": "Next",
}
"""What a person reads for each fixed branch. These names are reserved: no branch of an author's own has one."""

VALUE_BRANCHES = 10
"""Most branches of a split by value, beside "All other users" (Pushwoosh, "Condition split")."""
WAIT_BRANCHES = 3
"""Most branches of a wait, beside "Not triggered" (Pushwoosh, "Wait for Trigger")."""
WAIT_TRIGGERS = 4
"""Most events of one branch of a wait (the same page)."""
LONGEST_WAIT = "90d"
"""Longest wait for a trigger (the same page)."""
TEST_BRANCHES = 4
"""Most branches of a split test (Pushwoosh, "Running A/B/n tests")."""


class _Branches(Document):
    """Branches of which some are the author's own: `name: {..., next: target}`."""

    model_config = ConfigDict(extra="allow")

    @property
    def own(self) -> Mapping[str, Any]:
        """The author's branches by name, in document order."""
        return self.__pydantic_extra__ or {}

    @model_validator(mode="after")
    def _names(self) -> _Branches:
        for name in self.own:
            if name in BRANCH_LABELS:
                raise refusal("reserved-branch", f"{name!r} is the name of a fixed branch of another kind of element")
            if not (name.isascii() and name[:1].isalnum() and name == name.lower() and len(name) <= 60) or " " in name:
                raise refusal(
                    "branch-name", f"{name!r} is no name of a branch: write lower-case letters, digits, `-`, `_`"
                )
        return self


ValueRef: TypeAlias = Annotated[
    Annotated[AttributeRef, Tag("(attribute)")]
    | Annotated[EntryRef, Tag("(entry)")]
    | Annotated[PropertyRef, Tag("(property)")],
    Discriminator(
        lambda value: next(
            (
                f"({key})"
                for key in ("attribute", "entry", "property")
                if (key in value if isinstance(value, Mapping) else hasattr(value, key))
            ),
            None,
        )
    ),
]
"""A value of the one user: an attribute, a value of the entry event, or a property of the last awaited event."""


class SegmentBranches(Document):
    """The two ways out of a condition split by segment; both must lead somewhere."""

    users_in_segment: ElementId
    """Where "Users in a segment" go."""
    all_other_users: ElementId
    """Where "All other users" go."""


class ConditionSplit(Document):
    """Sends each user down one of two branches, by whether a segment holds the user on arrival."""

    kind: Literal["condition-split"]
    match: Condition
    """The segment: existing, built in place, or imported."""
    branches: SegmentBranches
    """Where each branch leads."""


class ValueBranch(Comparison):
    """Users whose value compares so."""

    next: ElementId
    """Where they go."""


class ValueBranches(_Branches):
    """Up to ten branches of the author's own, tried in order, and "All other users"."""

    __pydantic_extra__: dict[str, ValueBranch]

    all_other_users: ElementId
    """Where everybody else goes, those included whose value is missing."""

    @model_validator(mode="after")
    def _number(self) -> ValueBranches:
        if not 1 <= len(self.own) <= VALUE_BRANCHES:
            raise refusal("branches", f"{len(self.own)} branches found: a split by value has 1 to {VALUE_BRANCHES}")
        return self


class ValueSplit(Document):
    """Sends each user down a branch by an attribute, or by a value of the entry event or the last awaited one."""

    kind: Literal["condition-split"]
    by: ValueRef
    """The value."""
    branches: ValueBranches
    """The first branch whose comparison is true; else "All other users"."""


class PushBranches(Document):
    """The two ways out of a push whose result matters."""

    accepted: ElementId
    """Where users go for whom at least one device was accepted by its provider."""
    not_accepted: ElementId
    """Where everybody else goes."""


class FrequencyCap(Document):
    """At most so many marketing pushes to one user in a rolling period."""

    at_most: Annotated[int, Field(ge=1)]
    """How many."""
    per: Duration
    """The period that ends now, such as `7d`."""


class Push(Document):
    """Sends a message to the user's reachable devices."""

    kind: Literal["push"]
    purpose: Literal["marketing", "transactional"] = "marketing"
    """Marketing respects frequency caps, silent hours and the control group, and is never sent again after an unknown
    outcome; transactional is."""
    devices: Condition | None = None
    """Only devices for which this is true; left out: every reachable one."""
    send_to: Literal["all", "latest"] = "all"
    """All of these devices, or only the one last seen."""
    frequency_cap: Literal["ignore"] | FrequencyCap | None = None
    """A cap of this push's own, beside the general one; `ignore` is held back by none and counts for none."""
    message: Message
    """What is said."""
    next: ElementId | None = None
    """The element that follows, whatever became of the push."""
    branches: PushBranches | None = None
    """In place of `next`: one way for those who were reached, one for the others."""

    @model_validator(mode="after")
    def _one_way_of_leaving(self) -> Push:
        if (self.next is None) == (self.branches is None):
            raise ValueError("a push has either `next` or `branches: {accepted: ..., not_accepted: ...}`")
        return self


class TimeDelay(Document):
    """Holds each user for a time, or until a moment."""

    kind: Literal["time-delay"]
    duration: Duration | None = None
    """How long: `3d`."""
    time: LocalTime | None = None
    """Until this time of day: the next one, or the one of the day that the rest names."""
    weekdays: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = None
    """Until the next of these, at `time`."""
    date: CalendarDay | None = None
    """Until this day, at `time`, else its first instant. A day that is past delays nobody."""
    until: ValueRef | None = None
    """Until the date or instant that this value holds. Where it cannot be read the user leaves, with that reason."""
    days: Annotated[int, Field(ge=-3650, le=3650)] | None = None
    """With `until`: so many calendar days after it; before it, when negative."""
    timezone: UserOrZone = "user"
    """Whose clock and calendar these are."""
    next: ElementId
    """The element that follows."""

    @model_validator(mode="after")
    def _one_moment(self) -> TimeDelay:
        found = [word for word in ("duration", "weekdays", "date", "until") if getattr(self, word) is not None]
        if len(found) > 1 or not (found or self.time is not None):
            raise refusal(
                "delay",
                "a delay has one of `duration: 3d`, `time: 09:00`, `weekdays: [monday]` with `time`, "
                "`date: 2027-03-31`, `until: {attribute: trial_ends}`"
                + (f"; found {', '.join(found)}" if found else ""),
            )
        if self.duration is not None and self.time is not None:
            raise refusal(
                "delay", "`time` goes with `weekdays`, `date` or `until`, or stands alone; not with `duration`"
            )
        if self.weekdays is not None and self.time is None:
            raise refusal("delay", "`time` is missing: at what time of these weekdays, such as `time: 09:00`")
        if self.days is not None and self.until is None:
            raise refusal("delay", "`days` shifts `until`: without it, there is nothing to shift")
        return self


class WaitBranch(Document):
    """What ends a wait: an event, several, or the user's coming into or out of a segment."""

    trigger: Trigger | None = None
    """This event."""
    any: Annotated[tuple[Trigger, ...], Field(min_length=1, max_length=WAIT_TRIGGERS)] | None = None
    """One of these events."""
    all: Annotated[tuple[Trigger, ...], Field(min_length=1, max_length=WAIT_TRIGGERS)] | None = None
    """All of these events, in any order."""
    in_segment: Condition | None = None
    """The user is in this segment, now or later."""
    not_in_segment: Condition | None = None
    """The user is not in this segment, now or later."""
    next: ElementId
    """Where users go."""

    @model_validator(mode="after")
    def _one_cause(self) -> WaitBranch:
        words = ("trigger", "any", "all", "in_segment", "not_in_segment")
        if sum(getattr(self, word) is not None for word in words) != 1:
            raise refusal("wait-branch", f"a branch of a wait has one of: {', '.join(words)}")
        return self


class WaitBranches(_Branches):
    """Up to three branches of the author's own, and "Not triggered"."""

    __pydantic_extra__: dict[str, WaitBranch]

    not_triggered: ElementId
    """Where users go when the time is over and nothing happened."""

    @model_validator(mode="after")
    def _number(self) -> WaitBranches:
        if not 1 <= len(self.own) <= WAIT_BRANCHES:
            raise refusal("branches", f"{len(self.own)} branches found: a wait has 1 to {WAIT_BRANCHES}")
        return self


class WaitForTrigger(Document):
    """Holds each user until something happens, or a time is over."""

    kind: Literal["wait-for-trigger"]
    up_to: Duration
    """Longest wait, 90 days at most."""
    fixed: bool = False
    """`true`: every user waits the whole time, and then takes the branch of what happened first."""
    branches: WaitBranches
    """What is waited for."""

    @model_validator(mode="after")
    def _bounded(self) -> WaitForTrigger:
        if not duration("0s") < duration(self.up_to) <= duration(LONGEST_WAIT):
            raise refusal("wait", f"`up_to: {self.up_to}`: a wait lasts over `0s` and at most `{LONGEST_WAIT}`")
        return self


class TestBranch(Document):
    """One variant of a split test."""

    __test__ = False  # not for pytest

    share: Annotated[int, Field(ge=0, le=100)]
    """Percent of the users."""
    next: ElementId
    """Where they go."""


class Winner(Document):
    """How the better variant is found without a hand: the first whose lead is significant takes everybody."""

    goal: str
    """The journey's goal that decides."""
    users: Annotated[int, Field(ge=10)] = 100
    """Fewest users of each variant before it may win or lose."""


class SplitTest(Document):
    """Divides users at random, by a hash of user and element: the same user gets the same variant again."""

    kind: Literal["split-test"]
    assign: Literal["stable", "anew"] = "stable"
    """`anew`: a user who enters again is assigned again."""
    winner: Winner | None = None
    """Chosen by this goal; left out: by hand, with `journeys winner`."""
    branches: Annotated[dict[ElementId, TestBranch], Field(min_length=2, max_length=TEST_BRANCHES)]
    """The variants; their shares total 100."""

    @model_validator(mode="after")
    def _whole(self) -> SplitTest:
        total = sum(branch.share for branch in self.branches.values())
        if total != 100:
            raise refusal("shares", f"the shares total {total}: they have to total 100")
        for name in self.branches:
            if name in BRANCH_LABELS:
                raise refusal("reserved-branch", f"{name!r} is the name of a fixed branch of another kind of element")
        return self


class ReachabilityBranches(Document):
    """The two ways out of a reachability check."""

    reachable: ElementId
    """Where users go who have a device that is opted in, with an address that no provider refused."""
    not_reachable: ElementId
    """Where everybody else goes."""


class ReachabilityCheck(Document):
    """Tells users who can receive a push from those who cannot."""

    kind: Literal["reachability-check"]
    branches: ReachabilityBranches
    """Where each branch leads."""


class UpdateUser(Document):
    """Writes values to the user's attributes."""

    kind: Literal["update-user"]
    set: Annotated[dict[str, Value], Field(min_length=1)]
    """Attribute to value: a text, read by the attribute's type, or `{entry: X}`, `{property: X}` of the last awaited
    event, `{attribute: X}`."""
    next: ElementId
    """The element that follows."""


class WebhookBranches(Document):
    """The two ways out of a webhook whose result matters."""

    accepted: ElementId
    """Where users go for whom the other side answered with a 2xx status."""
    not_accepted: ElementId
    """Where everybody else goes."""


class Webhook(Document):
    """Posts a JSON object about the user to another system, signed, with the same idempotency key on every try."""

    kind: Literal["webhook"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    """Where it is posted. Hosts inside the network are refused unless `JOURNEYS_WEBHOOK_HOSTS` names them."""
    data: dict[str, Text] = Field(default_factory=dict)
    """Values of the object, each a text and maybe a template; `journey`, `element`, `user_id` are added."""
    next: ElementId | None = None
    """The element that follows, whatever the answer."""
    branches: WebhookBranches | None = None
    """In place of `next`."""

    @model_validator(mode="after")
    def _one_way_of_leaving(self) -> Webhook:
        if (self.next is None) == (self.branches is None):
            raise ValueError("a webhook has either `next` or `branches: {accepted: ..., not_accepted: ...}`")
        return self


class Exit(Document):
    """The end of a path."""

    kind: Literal["exit"]


AnySplit: TypeAlias = Annotated[
    Annotated[ConditionSplit, Tag("(match)")] | Annotated[ValueSplit, Tag("(by)")],
    Discriminator(
        lambda value: "(by)" if (isinstance(value, Mapping) and "by" in value) or hasattr(value, "by") else "(match)"
    ),
]
"""A condition split: by segment, or by value."""

Element: TypeAlias = Annotated[
    AnySplit | Push | TimeDelay | WaitForTrigger | SplitTest | ReachabilityCheck | UpdateUser | Webhook | Exit,
    Field(discriminator="kind"),
]
"""One box of a journey."""

Part: TypeAlias = AudienceEntry | TriggerEntry | ApiEntry | Element


def ways_out(part: Any) -> dict[str, str]:
    """List the branches of an entry or element.

    Args:
        part: Any entry or element.

    Returns:
        Branch name to the id it leads to, in document order; a single way out is called `next`; an exit has none.
    """
    branches: BaseModel | Mapping[str, Any] | None = getattr(part, "branches", None)
    if branches is None:
        following: str | None = getattr(part, "next", None)
        return {"next": following} if following is not None else {}
    if isinstance(branches, Mapping):
        return {name: branch.next for name, branch in branches.items()}
    own: Mapping[str, Any] = getattr(branches, "own", {})
    fixed = {name: str(getattr(branches, name)) for name in type(branches).model_fields}
    return {name: branch.next for name, branch in own.items()} | fixed
