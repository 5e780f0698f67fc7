"""How large a segment is: users, devices and reachable users, always side by side."""

from __future__ import annotations

from datetime import datetime

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.segments.segments import Evaluation
from activities.stores import Stores
from workflows.contracts import Versions


class SegmentCount(BaseModel):
    """Three numbers that are often taken for one another, and from what they were counted."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    users: int
    """Users in the segment."""
    devices: int
    """Devices of these users."""
    reachable: int
    """Users among them with at least one device that can receive a push."""
    as_of: datetime
    tables: Versions


def count_segment(stores: Stores, found: Evaluation) -> SegmentCount:
    """Count a segment's users, devices and reachable users, at the table versions of its evaluation. Blocking.

    Raises:
        StoreUnavailable: The tables cannot be reached.
    """
    devices = stores.segments.snapshot(found.tables).devices.join(found.users.lazy(), on="user_id", how="semi")
    owned = stores.tables.collect(devices.select(pl.len())).item()
    reached = stores.tables.collect(stores.profiles.reachable(devices).select(pl.col("user_id").n_unique())).item()
    return SegmentCount(
        users=found.users.height, devices=owned, reachable=reached, as_of=found.as_of, tables=found.tables
    )
