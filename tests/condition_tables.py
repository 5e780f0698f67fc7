"""Small audience tables for tests of the segment language, from plain Python rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import TypeAdapter

from activities.segments.compiler import Built, Imported, Snapshot, select_users
from activities.tables.schema import DTYPES, Kind, version_order
from workflows.conditions import Condition, FileRef, SegmentRef
from workflows.errors import NotFoundError

CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
EXAMPLES = Path(__file__).parent / "examples" / "segments.yaml"

KEYS: dict[str, dict[str, Kind]] = {
    "users": {"user_id": "string"},
    "devices": {"device_id": "string", "user_id": "string", "platform": "string"},
    "events": {"user_id": "string", "event": "string", "at": "instant", "event_id": "string"},
}
"""The columns that each table has in any case."""


def condition(text: str) -> Condition:
    """Read a condition from YAML, every scalar as text, as documents are read."""
    return CONDITION.validate_python(yaml.load(text, yaml.BaseLoader))  # noqa: S506 - makes nothing but text


def euros(amount: str | None, currency: str = "EUR") -> dict[str, Any] | None:
    """Give a stored price."""
    return None if amount is None else {"amount": Decimal(amount), "currency": currency}


def instant(text: str) -> datetime:
    """Give a stored instant."""
    return datetime.fromisoformat(text).astimezone(UTC)


def frame(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]) -> pl.LazyFrame:
    """Store rows as an import does. A version is given as its text."""

    def stored(value: Any, kind: Kind) -> Any:
        if kind == "version" and value is not None:
            return {"text": value, "order": version_order(value)}
        return value

    columns = {
        name: pl.Series(name, [stored(row.get(name), kind) for row in rows], dtype=DTYPES[kind])
        for name, kind in kinds.items()
    }
    return pl.DataFrame(columns).lazy()


@dataclass
class Tables:
    """Audience tables with some columns, and the segments that a condition may refer to."""

    kinds: dict[str, dict[str, Kind]]
    users: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    segments: dict[str, Built | set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kinds = {table: {**keys, **self.kinds.get(table, {})} for table, keys in KEYS.items()}

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(
            frame(self.users, self.kinds["users"]),
            frame(self.devices, self.kinds["devices"]),
            frame(self.events, self.kinds["events"]),
        )

    def segment(self, ref: SegmentRef) -> Built | Imported:
        if ref.segment not in self.segments:
            raise NotFoundError(f"unknown segment {ref.segment!r}")
        meant = self.segments[ref.segment]
        return meant if isinstance(meant, Built) else _members(meant)

    def file(self, ref: FileRef) -> Imported:
        members = self.segments[ref.file]
        assert isinstance(members, set)
        return _members(members)

    def select(self, node: Condition | str, as_of: datetime = NOON, zone: str = "UTC") -> list[str]:
        """Give the users for whom a condition is true, sorted; fails when one comes twice."""
        compiled = condition(node) if isinstance(node, str) else node
        found = select_users(compiled, self.snapshot, as_of=as_of, zone=zone, resolve=self).collect()
        assert found.columns == ["user_id"]
        return sorted(found.get_column("user_id").to_list())


def _members(ids: set[str]) -> Imported:
    return Imported(pl.DataFrame({"user_id": sorted(ids)}, schema={"user_id": pl.String}).lazy())
