"""What a plan reads: one snapshot, asked about many users at the moments at which they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cached_property

import polars as pl

from activities.push.profiles import Profile
from activities.segments.compiler import Built, is_timeless
from activities.segments.segments import References, condition_key
from activities.stores import Stores
from activities.tables.schema import Kind
from workflows.conditions import AttributeTest, Condition, SegmentRef, walk
from workflows.contracts import Versions
from workflows.documents import JourneyDocument, Push
from workflows.operators import AttributeRef, Operators
from workflows.scalars import is_zone

USERS_AT_ONCE = 2_000
"""Users whose profiles are read at one time."""
MOMENTS = 100
"""Most moments at which one condition is evaluated; where users arrive at more, those of one hour share one."""

INSTANT = pl.Datetime("us", "UTC")
USERS: dict[str, pl.DataType] = {"user_id": pl.String(), "at": INSTANT}
"""Users, each with the moment of arrival."""


class Reading:
    """One snapshot.

    Args:
        stores: Tables, catalogue and ledger.
        document: The journey.
        now: The instant of the plan, UTC.
        versions: The table versions to read.
        references: What the document's references mean.
    """

    def __init__(
        self, stores: Stores, document: JourneyDocument, now: datetime, versions: Versions, references: References
    ) -> None:
        self.stores = stores
        self.document = document
        self.now = now
        self.versions = versions
        self.references = references
        self.zone = document.timezone or stores.segments.zone
        self._members: dict[tuple[str, datetime | None], pl.DataFrame] = {}

    def members(self, condition: Condition, as_of: datetime) -> pl.DataFrame:
        """Give the users for whom a condition is true at a moment: one column, `user_id: String`.

        Raises:
            NotFoundError: A reference leads nowhere.
            StoreUnavailable: The tables cannot be reached.
        """
        timeless = is_timeless(condition, self.references)
        key = (condition_key(condition, self.zone), None if timeless else as_of)
        if key not in self._members:
            self._members[key] = self.stores.segments.evaluate(
                condition, as_of, zone=self.zone, versions=self.versions, references=self.references
            ).users
        return self._members[key]

    def holders(self, condition: Condition, users: pl.DataFrame) -> pl.DataFrame:
        """Keep the users for whom a condition is true when they arrive."""
        return self.by_moment(
            users, lambda some, as_of: some.join(self.members(condition, as_of), on="user_id", how="semi")
        )

    def by_moment(self, users: pl.DataFrame, ask: Callable[[pl.DataFrame, datetime], pl.DataFrame]) -> pl.DataFrame:
        """Ask about users at their moments: each moment once, or each hour where there are too many."""
        parts = [ask(part, part.get_column("at")[0]) for part in _parts(users)]
        return pl.concat(parts) if parts else users

    def attributes(self, users: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
        """Put attributes beside users; null for those whom the table does not know, none for unknown names."""
        known = [name for name in dict.fromkeys(names) if name in self.kinds]
        table = self.stores.segments.snapshot(self.versions).users.select(
            "user_id", *(pl.col(name).alias(f"user:{name}") for name in known)
        )
        return users.join(
            self.stores.tables.collect(table.join(users.lazy().select("user_id"), on="user_id", how="semi")),
            on="user_id",
            how="left",
        )

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of the users' attributes."""
        return dict(self.stores.tables.schema("users", self.versions.get("users")))

    def zones(self, users: pl.DataFrame) -> pl.DataFrame:
        """Put each user's own zone beside him, as `zone: String`: his attribute, else his device's, else the journey's.

        Raises:
            StoreUnavailable: The tables cannot be reached.
        """
        zoned = users.join(self._zones, on="user_id", how="left")
        return zoned.with_columns(pl.col("zone").fill_null(self.zone))

    @cached_property
    def _zones(self) -> pl.DataFrame:
        """Every user with a zone of his own; of several devices the one last seen."""
        snapshot = self.stores.segments.snapshot(self.versions)
        parts = []
        devices = self.stores.profiles.reachable(snapshot.devices)
        for rank, table in enumerate((snapshot.users, devices)):
            columns = table.collect_schema().names()
            if "timezone" not in columns or "user_id" not in columns:
                continue
            if rank and "last_seen" in columns:
                table = table.sort("last_seen", "device_id", descending=[True, False], nulls_last=True)
            elif rank:
                table = table.sort("device_id")
            parts.append(self.stores.tables.collect(table.select("user_id", zone=pl.col("timezone").cast(pl.String))))
        found = pl.concat([pl.DataFrame(schema={"user_id": pl.String, "zone": pl.String}), *parts]).drop_nulls("zone")
        real = [zone for zone in found.get_column("zone").unique().to_list() if is_zone(zone)]
        return found.filter(pl.col("zone").is_in(real)).unique("user_id", keep="first", maintain_order=True)

    def profiles(self, push: Push | None, users: pl.DataFrame) -> Iterator[tuple[str, datetime, Profile]]:
        """Give users as a push sees them, each with the moment of the push."""
        devices = None if push is None else push.devices
        for chunk in users.iter_slices(USERS_AT_ONCE):
            for part in _parts(chunk) if devices is not None else [chunk]:
                moment = part.get_column("at")[0]
                read = self.stores.profiles.read(
                    part.get_column("user_id").to_list(), devices, self.zone, moment, self.versions
                )
                for user, at in part.select("user_id", "at").iter_rows():
                    yield user, at, read[user]

    def reads(self, condition: Condition, attributes: frozenset[str]) -> bool:
        """Tell whether a condition, or a segment it refers to, asks for one of some attributes of users."""
        for path, node in walk(condition):
            if isinstance(node, SegmentRef):
                meant = self.references.segment(node)
                if isinstance(meant, Built) and self.reads(meant.condition, attributes):
                    return True
            elif isinstance(node, AttributeTest) and "any_device" not in path and node.attribute in attributes:
                return True
            if isinstance(node, Operators) and any(one in attributes for one in compared_attributes(node)):
                return True
        return False


def _parts(users: pl.DataFrame) -> list[pl.DataFrame]:
    """Part users by the moment at which they are asked about."""
    if users.is_empty():
        return []
    moments = users.get_column("at").n_unique()
    moment = pl.col("at") if moments <= MOMENTS else pl.col("at").dt.truncate("1h")
    if moments == 1:
        return [users]
    return users.with_columns(moment=moment).partition_by("moment", maintain_order=True, include_key=False)


def compared_attributes(node: Operators) -> list[str]:
    """Name the attributes that a comparison compares with."""
    return [one.attribute for one in node.operands if isinstance(one, AttributeRef)]
