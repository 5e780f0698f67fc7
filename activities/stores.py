"""What activities share: the stores, opened once a process by whoever composes a worker or a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from activities.push.claims import Claims
from activities.push.profiles import Profiles
from activities.push.rates import Rates
from activities.records.catalogue import Catalogue, SavedJourney
from activities.records.gate import Gate
from activities.records.ledger import Ledger
from activities.records.pseudonyms import Pseudonyms
from activities.records.winners import Winners
from activities.segments.memberships import Memberships
from activities.segments.segments import Segments
from activities.segments.standings import Standings
from activities.tables.delta import Tables
from workflows.contracts import Leave, Outcome
from workflows.documents import Exit


@dataclass(frozen=True)
class Stores:
    """The stores of one process.

    Attributes:
        tables: The audience tables.
        catalogue: Saved versions.
        ledger: Admissions and outcomes.
        segments: Evaluates conditions.
        memberships: Answers splits.
        standings: Answers waits for segments that depend on the clock.
        profiles: Users and devices for pushes.
        claims: The ledger of pushes.
        rates: The allowances of providers.
        gate: Whether journeys run or are paused.
        winners: Winners of split tests.
        snapshots: Folder of the audiences that were evaluated.
        rejects: Folder of the rows that imports rejected.
    """

    tables: Tables
    catalogue: Catalogue
    ledger: Ledger
    segments: Segments
    memberships: Memberships
    standings: Standings
    profiles: Profiles
    claims: Claims
    rates: Rates
    gate: Gate
    winners: Winners
    snapshots: Path
    rejects: Path

    @property
    def ids(self) -> Pseudonyms:
        """Names users towards Temporal: who opens, starts or lists their runs asks here for the workflow id."""
        return self.ledger.ids


def leave_by(saved: SavedJourney, target: str) -> Leave | None:
    """Tell how a passage ends when it goes to an element; None when that is no exit."""
    return Leave(exit=target) if isinstance(saved.document.elements[target], Exit) else None


def outcome_of(saved: SavedJourney, element: str, branch: str, because: str) -> Outcome:
    """Make an element's outcome, with the leave when its branch leads to an exit."""
    return Outcome(branch=branch, because=because, left=leave_by(saved, saved.routes[element].to[branch]))
