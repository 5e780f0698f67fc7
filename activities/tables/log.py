"""The log of a table: which versions it still tells of, and how it is made to forget.

Each checkpoint deletes the part of the log that is older than a property of the table says. Only by that property can
the log be made to forget at once, so for a moment it is not what it ought to be, and whoever is killed in that moment
leaves it so. Hence what it ought to be is never read from a table, and every write puts it right first.
"""

from __future__ import annotations

from deltalake import DeltaTable, PostCommitHookProperties

RETENTION = "delta.logRetentionDuration"

KEPT_FOR = {
    # A passage may be open for months, and what decided about it can be read as long as the log tells which files.
    RETENTION: "interval 365 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}
"""Properties of a new table: how long its log remembers versions, and files that newer versions do without."""

NOTHING_KEPT = "interval 0 days"


def remembers(handle: DeltaTable) -> bool:
    """Tell whether a table's log remembers versions for as long as ours do."""
    return handle.metadata().configuration.get(RETENTION) == KEPT_FOR[RETENTION]


def remember(handle: DeltaTable) -> None:
    """Have a table's log remember versions for as long as ours do, whatever it was set to; one commit.

    Args:
        handle: The table at its newest version; at the one that this makes afterwards.

    Raises:
        CommitFailedError: Another commit came first. Nothing was changed.
    """
    _set(handle, KEPT_FOR[RETENTION])


def forget(handle: DeltaTable) -> None:
    """Delete the log of all versions before the newest one. One commit, which `remember` has to follow.

    Args:
        handle: The table at its newest version; at the one that this makes afterwards.

    Raises:
        CommitFailedError: Another commit came first. Nothing was deleted.
    """
    _set(handle, NOTHING_KEPT)
    # Of the very version that says so: another writer may have put it right already.
    handle.create_checkpoint()
    handle.cleanup_metadata()


def _set(handle: DeltaTable, kept: str) -> None:
    """Commit how long versions are kept, without a checkpoint: it would go by what was set before."""
    without = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    handle.alter.set_table_properties({RETENTION: kept}, post_commithook_properties=without)
