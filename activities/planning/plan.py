"""The plan, as commands and Python callers get it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from workflows.contracts import Versions


class PlannedEntry(BaseModel):
    """Who would come in by one entry."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    audience: int | None = None
    """Users in the audience; null where nobody can tell before the launch."""
    at: datetime | None = None
    """When the audience comes in first, UTC, where that is later than now."""
    unknown: str | None = None
    """Why it cannot be known who comes in, or what of it is not counted; null where all is."""


class PlannedElement(BaseModel):
    """What would happen at one element."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    arrived: int
    """Users who are certain to arrive, as the tables are."""
    branches: dict[str, int] = {}
    """Users who would take each branch."""
    users: dict[str, int] = {}
    """Users by outcome, where the element does something."""
    left: dict[str, int] = {}
    """Users who would leave the journey here, by reason."""
    may_arrive: int | None = 0
    """Users who may arrive beside the certain ones, at most; null where nobody can tell how many."""
    unknown: str | None = None
    """Why something here cannot be known before the launch; null where all can."""
    later: bool = False
    """Users arrive later than the launch: counted as if the tables stay as they are until then."""


class PlannedPushes(BaseModel):
    """What would be sent."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    users: int = 0
    """Pushes that reach a user, counted once for each push of the journey."""
    devices: int = 0
    by_provider: dict[str, int] = {}
    """Devices by provider."""


class Minute(BaseModel):
    """What would be sent in one minute."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    at: datetime
    """When the minute begins, UTC."""
    pushes: int
    """Messages to devices."""


class Plan(BaseModel):
    """What starting a journey now would do: exact where it can be known, and said where it cannot."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    journey: str
    audience: int
    refused: dict[str, int] = {}
    """Users whom the re-entry rule would keep out, by reason."""
    entries: dict[str, PlannedEntry] = {}
    elements: dict[str, PlannedElement] = {}
    pushes: PlannedPushes
    forecast: list[Minute] = []
    """Pushes a minute, of the certain ones, by time; minutes in which nothing is sent are left out."""
    as_of: datetime
    tables: Versions
    """The version of each table that was read."""
