"""The tables of the ledger, and how it writes instants."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, Index, Integer, String, Table, Text, text

from activities.records.database import METADATA

journeys = Table(
    "journeys",
    METADATA,
    Column("journey", String(80), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("launch", String(64), nullable=False),
    Column("changed_at", String(32), nullable=False),
    # Rises with every pause, resumption and revision.
    Column("epoch", Integer, nullable=False, default=0, server_default="0"),
    Column("paused_at", String(32)),
)

pauses = Table(
    "pauses",
    METADATA,
    Column("journey", String(80), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("began_at", String(32), nullable=False),
    Column("ended_at", String(32)),
    # What was done with what fell due meanwhile: `now`, `shift` or `skip`; null while the pause lasts.
    Column("due", String(8)),
)

held = Table(
    "held",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("element", String(60), nullable=False),
    # The pause that held it, by the epoch with which it began.
    Column("epoch", Integer, nullable=False),
    Column("due_at", String(32), nullable=False),
    Column("signalled", Integer, nullable=False, default=0),
    Index("held_by_pause", "journey", "epoch", "signalled"),
)

revisions = Table(
    "revisions",
    METADATA,
    Column("journey", String(80), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String(16), nullable=False),
    # What becomes of those inside earlier versions: `keep`, `move` or `end`.
    Column("inside", String(8), nullable=False),
    # Old element to new one, as a JSON object.
    Column("mapping", Text, nullable=False),
    Column("at", String(32), nullable=False),
)

moves = Table(
    "moves",
    METADATA,
    Column("passage", String(64), primary_key=True),
    # The step of the visit that went on elsewhere.
    Column("step", Integer, primary_key=True),
    Column("to_version", Integer, nullable=False),
    Column("journey", String(80), nullable=False),
    Column("from_version", Integer, nullable=False),
    Column("from_element", String(60), nullable=False),
    Column("to_element", String(60), nullable=False),
    Column("at", String(32), nullable=False),
    Index("moves_by_journey", "journey", "from_version", "to_version"),
)

waits = Table(
    "waits",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(16), nullable=False),
    Column("element", String(60), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    # Events taken from then on count: when the element before was visited.
    Column("begun_at", String(32), nullable=False),
    Column("deadline", String(32), nullable=False),
    Column("open", Integer, nullable=False),
    Index("waits_by_user", "user_id", "open"),
)

hits = Table(
    "hits",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("branch", String(60), primary_key=True),
    # Which of the branch's triggers, from 0; of a segment branch 0, with no event.
    Column("place", Integer, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("properties", Text, nullable=False),
)

taken = Table(
    "taken",
    METADATA,
    Column("event_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("taken_at", String(32), nullable=False),
    Column("properties", Text, nullable=False),
    # Whether the table `events` holds it, and whether all that it sets off was set off.
    Column("stored", Integer, nullable=False, default=0),
    Column("done", Integer, nullable=False, default=0),
    Index("taken_by_user", "user_id", "event", "taken_at"),
    Index("taken_undone", "done"),
)

conversions = Table(
    "conversions",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("goal", String(60), primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("at", String(32), nullable=False),
    # The push that it is attributed to: the last one opened, else the last one sent; null for none.
    Column("element", String(60)),
    Column("opened", Integer),
    Index("conversions_by_journey", "journey", "version", "goal"),
)

winners = Table(
    "winners",
    METADATA,
    Column("journey", String(80), primary_key=True),
    Column("element", String(60), primary_key=True),
    Column("branch", String(60), nullable=False),
    Column("at", String(32), nullable=False),
    # `hand`, or the goal that decided.
    Column("chosen_by", String(60), nullable=False),
)

enrolments = Table(
    "enrolments",
    METADATA,
    Column("enrolment", String(400), primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("entry", String(60), nullable=False),
    Column("audience", Integer, nullable=False),
    Column("cursor", Integer, nullable=False),
    Column("as_of", String(32), nullable=False),
    Column("tables", Text, nullable=False),
    Index("enrolments_by_journey", "journey", "version"),
)

passages = Table(
    "passages",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("entry", String(60), nullable=False),
    Column("enrolment", String(400), nullable=False),
    Column("entered_at", String(32), nullable=False),
    Column("started", Integer, nullable=False),
    Column("begun_at", String(32)),
    Column("closed_at", String(32)),
    Column("exit", String(60)),
    Column("reason", String(80)),
    # The version that admitted it; `version` is the one it is in.
    Column("entered_version", Integer, nullable=False),
    # Where an operator sends the user next; null for nowhere.
    Column("sent_to", String(60)),
    # When the user comes in, where that is after the admission.
    Column("enters_at", String(32)),
    # The entry event's values as a JSON object, and its id; null for entries without an event.
    Column("properties", Text),
    Column("event_id", Text),
    Index("passages_by_user", "journey", "user_id"),
    Index("passages_by_version", "journey", "version"),
    Index("passages_by_enrolment", "enrolment"),
    Index(
        "passages_not_begun",
        "journey",
        "started",
        sqlite_where=text("closed_at IS NULL AND begun_at IS NULL"),
        postgresql_where=text("closed_at IS NULL AND begun_at IS NULL"),
    ),
    Index(
        "one_open_passage",
        "journey",
        "user_id",
        "key",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
)

refusals = Table(
    "refusals",
    METADATA,
    Column("enrolment", String(400), primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", String(32), nullable=False),
    Column("reason", String(80), nullable=False),
    Index("refusals_by_journey", "journey", "version"),
)

steps = Table(
    "steps",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("element", String(60), nullable=False),
    Column("branch", String(60), nullable=False),
    Column("outcome", String(80), nullable=False),
    Column("because", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("as_of", String(32)),
    Column("tables", Text),
    # The values of the event that a wait ended with, as a JSON object.
    Column("properties", Text),
    Index("steps_by_element", "journey", "version", "element", "branch"),
)

pushes = Table(
    "pushes",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("element", String(60), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("provider", String(40), nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("token", Text),
    Column("push_id", String(36)),
    Column("detail", Text),
    Column("attempts", Integer, nullable=False, default=1),
    Column("sent_at", String(32)),
    Column("capped_by", Integer, nullable=False, default=1),
    Index("pushes_by_element", "journey", "version", "element"),
    Index("pushes_by_user", "user_id", "at"),
    Index("pushes_by_outcome", "outcome", "at"),
    Index("pushes_by_sending", "sent_at"),
    Index("pushes_by_push_id", "push_id"),
)


def instant(moment: datetime) -> str:
    """Write an instant as RFC 3339 in UTC: 27 characters, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
