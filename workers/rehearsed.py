"""What a rehearsal is given, and what it tells."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from workflows.scalars import Duration


class Given(BaseModel):
    """What every part of a rehearsal's input shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GivenEvent(Given):
    """Something the user does on the way."""

    event: str
    """Its name. The first one that a trigger entry waits for lets the user in."""
    after: Duration | None = None
    """How long after the entry; left out: as soon as the user waits for something."""
    properties: dict[str, Any] = {}
    """Its values."""


class GivenUser(Given):
    """Who the user is: his rows of the tables, and what is put over them."""

    user: str = "rehearsed-user"
    """The user's id; one whom no table knows is made up by the rest."""
    attributes: dict[str, Any] = {}
    """Attributes that are put over those of the tables."""
    devices: list[dict[str, Any]] | None = None
    """Devices in place of those of the tables, opted in unless they say otherwise."""
    history: list[dict[str, Any]] = []
    """Events beside those of the tables: `event`, `ago` (a duration) and properties."""


class RehearsedPush(Given):
    """One message to one device."""

    element: str
    device_id: str
    provider: str
    at: datetime
    """On the run's own clock, UTC."""
    title: str
    body: str


class RehearsedStep(Given):
    """One element of the way."""

    element: str
    kind: str
    at: datetime
    """When it was decided, on the run's own clock, UTC."""
    branch: str
    because: str
    outcome: str
    pushes: list[RehearsedPush] = []
    """What would have been sent."""
    posted: dict[str, Any] | None = None
    """What a webhook would have posted: `url` and `data`."""


class Rehearsal(Given):
    """How one user passed."""

    journey: str
    user_id: str
    entry: str
    admitted: bool
    reason: str
    """`end` at an exit; why the user left earlier, or did not come in."""
    exit: str | None = None
    entered_at: datetime | None = None
    left_at: datetime | None = None
    steps: list[RehearsedStep] = []

    @property
    def pushes(self) -> list[RehearsedPush]:
        """Every message, in order."""
        return [push for step in self.steps for push in step.pushes]
