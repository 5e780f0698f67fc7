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
)

enrolments = Table(
    "enrolments",
    METADATA,
    Column("enrolment", String(120), primary_key=True),
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
    Column("user_id", String(500), nullable=False),
    Column("key", String(500), nullable=False),
    Column("entry", String(60), nullable=False),
    Column("enrolment", String(120), nullable=False),
    Column("entered_at", String(32), nullable=False),
    Column("started", Integer, nullable=False),
    Column("begun_at", String(32)),
    Column("closed_at", String(32)),
    Column("exit", String(60)),
    Column("reason", String(80)),
    Index("passages_by_user", "journey", "user_id"),
    Index("passages_by_version", "journey", "version"),
    Index("passages_by_enrolment", "enrolment"),
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
    Column("enrolment", String(120), primary_key=True),
    Column("user_id", String(500), primary_key=True),
    Column("key", String(500), primary_key=True),
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
    Index("steps_by_element", "journey", "version", "element", "branch"),
)

pushes = Table(
    "pushes",
    METADATA,
    Column("passage", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("device_id", String(500), primary_key=True),
    Column("journey", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("element", String(60), nullable=False),
    Column("user_id", String(500), nullable=False),
    Column("at", String(32), nullable=False),
    Column("provider", String(40), nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("token", Text),
    Column("push_id", String(36)),
    Column("detail", Text),
    Column("attempts", Integer, nullable=False, default=1),
    Column("capped_by", Integer, nullable=False, default=1),
    Index("pushes_by_element", "journey", "version", "element"),
    Index("pushes_by_user", "user_id", "at"),
    Index("pushes_by_outcome", "outcome", "at"),
)


def instant(moment: datetime) -> str:
    """Write an instant as RFC 3339 in UTC: 27 characters, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
