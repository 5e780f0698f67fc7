"""`Upkeep`: the audience tables are tidied, once or by a Temporal Schedule."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from workflows.contracts import Wire

UPKEEP_ID = "upkeep"
"""Id of the Schedule, and of the workflow that it starts."""

DEFAULT_RETAIN = "7d"

LONGEST = timedelta(hours=6)
"""Longest one upkeep may take."""
HEARTBEAT = timedelta(seconds=30)
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=10), maximum_interval=timedelta(minutes=10))


class UpkeepInput(Wire):
    """Asks that the audience tables be tidied."""

    retain: str = DEFAULT_RETAIN
    """How long files stay after newer versions replaced them: a duration, at least an hour."""
    dry_run: bool = False
    """Change nothing, and tell what would be done."""


class TidiedTable(Wire):
    """What was done to one table; what would be, in a dry run."""

    table: str
    version: int
    """The newest version afterwards."""
    files_before: int
    files_after: int
    """Files of the newest version after compaction; an estimate in a dry run."""
    vacuumed: int
    """Files removed, that no version still needs."""


class UpkeepReport(Wire):
    """What was done to the tables that exist."""

    tables: list[TidiedTable]
    dead_devices: int = 0
    """Devices of whose dead address the table tells from now on; would tell, in a dry run."""
    events: int = 0
    """Events that the ledger has forgotten, done long ago: the table has them; would forget."""
    waits: int = 0
    """Records of waits and pauses that the ledger has forgotten, of users who left; would forget."""
    snapshots: int = 0
    """Audiences that were evaluated, from which nobody enters any more, and which were removed; would be."""
    imports: int = 0
    """Imports that were killed, whose temporary and unfinished files on this machine were removed; would be."""


@activity.defn(name="upkeep")
async def upkeep(given: UpkeepInput) -> UpkeepReport:
    """Compact and vacuum the audience tables."""
    raise NotImplementedError


@workflow.defn(name="Upkeep")
class Upkeep:
    """Tidies the audience tables once."""

    @workflow.run
    async def run(self, given: UpkeepInput) -> UpkeepReport:
        """Compact and vacuum.

        Args:
            given: How long to retain what was replaced.

        Returns:
            What was done to each table.
        """
        report = await workflow.execute_activity(
            upkeep,
            given,
            start_to_close_timeout=LONGEST,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=PATIENCE,
            summary="Compact and vacuum the audience tables",
        )
        workflow.set_current_details(
            "\n".join(
                f"**{one.table}**: {one.files_before} files, now {one.files_after}; {one.vacuumed} old ones removed"
                for one in report.tables
            )
        )
        return report
