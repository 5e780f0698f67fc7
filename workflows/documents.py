"""The documents that people write: segments and journeys.

Every model is immutable and refuses what it does not know. A new element is one model here, one row in
`BRANCH_LABELS` when it has fixed branches, and one activity; graph, routes, statistics and drawings read the
branches and need not know the kinds.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, StringConstraints, model_validator

from workflows.conditions import Condition, Duration, Zone
from workflows.messages import Document, Message

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=80)]
"""A name of a journey or segment: lower-case letters, digits, hyphens."""

ElementId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
"""The id of an entry or element: lower-case letters, digits, hyphens, underscores. Both share one space."""

USERS_IN_SEGMENT = "users_in_segment"
ALL_OTHER_USERS = "all_other_users"

BRANCH_LABELS = {
    USERS_IN_SEGMENT: "Users in a segment",
    ALL_OTHER_USERS: "All other users",
    "accepted": "Accepted",
    "not_accepted": "Not accepted",
    "next": "Next",
}
"""What a person reads for each fixed branch."""


class SegmentDocument(Document):
    """A saved condition: the set of users for whom it is true."""

    segment: Name
    """The segment's name."""
    title: str = ""
    """What people read in lists."""
    timezone: Zone | None = None
    """Zone of calendar days; left out: the setting `JOURNEYS_TIMEZONE`, then UTC."""
    match: Condition
    """The condition."""


class AudienceEntry(Document):
    """Admits the users of a segment, once, when the journey starts."""

    kind: Literal["audience-entry"]
    audience: Condition
    """The users who enter: an existing segment, a condition built in place, or an imported file."""
    next: ElementId
    """The element where users arrive first."""


class SegmentBranches(Document):
    """The two ways out of a condition split; both must lead somewhere."""

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
    """Marketing respects frequency caps and is never sent again after an unknown outcome; transactional is."""
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


class Exit(Document):
    """The end of a path."""

    kind: Literal["exit"]


Entry: TypeAlias = AudienceEntry
"""A way into a journey."""

Element: TypeAlias = Annotated[ConditionSplit | Push | Exit, Field(discriminator="kind")]
"""One box of a journey."""


class AtMost(Document):
    """Re-entry up to a number of times in a period that counts from each entry."""

    at_most: Annotated[int, Field(ge=1)]
    """How many entries the period may hold."""
    per: Duration
    """The period, such as `90d`."""


Reentry: TypeAlias = Literal["never", "after_exit"] | AtMost
"""When a user who was in the journey may enter it again."""


class JourneyDocument(Document):
    """A journey: entries, and a graph of elements."""

    journey: Name
    """The journey's name."""
    title: str = ""
    """What people read in lists."""
    timezone: Zone | None = None
    """The zone of users without one of their own; left out: UTC."""
    reentry: Reentry = "never"
    """Whether users may enter more than once: `never`, `after_exit`, or `{at_most: 1, per: 90d}`."""
    entries: Annotated[dict[ElementId, Entry], Field(min_length=1)]
    """The ways in, by id."""
    elements: Annotated[dict[ElementId, Element], Field(min_length=1)]
    """The boxes, by id."""


def ways_out(part: AudienceEntry | ConditionSplit | Push | Exit) -> dict[str, str]:
    """List the branches of an entry or element.

    Args:
        part: Any entry or element.

    Returns:
        Branch name to the id it leads to, in document order; a single way out is called `next`; an exit has none.
    """
    branches: BaseModel | None = getattr(part, "branches", None)
    if branches is not None:
        return {name: str(getattr(branches, name)) for name in type(branches).model_fields}
    following: str | None = getattr(part, "next", None)
    return {"next": following} if following is not None else {}


def definition_of(document: JourneyDocument | SegmentDocument) -> dict[str, Any]:
    """Give a document as JSON data, as its author wrote it.

    Args:
        document: A journey or segment.

    Returns:
        The keys that were set, with their values: reading them again gives the same document.
    """
    return document.model_dump(mode="json", by_alias=True, exclude_unset=True)


def digest_of(definition: Any) -> str:
    """Name a definition by its content.

    Args:
        definition: JSON data; the order of keys does not matter.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of its canonical JSON.
    """
    text = json.dumps(definition, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
