"""Folders of temporary files, which hold the rows of people while these are imported.

An import holds a lock on its folder, which the system lifts however the process ends, and removes it. Of one that was
killed the folder stays, until upkeep finds it old and not locked.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from stat import S_ISDIR
from typing import Literal, TypeAlias, get_args

log = logging.getLogger(__name__)

Held: TypeAlias = Literal["rows", "ids"]
"""What the files of a folder hold."""


@contextmanager
def temporary_folder(held: Held) -> Iterator[Path]:
    """Make a folder for the temporary files of an import, and remove it afterwards.

    Args:
        held: What its files hold.

    Yields:
        The folder, which nobody else removes meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix=_prefix(held)) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            # Where folders cannot be locked, none is ever found unlocked either.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(lock)


def remove_left_folders(*, before: datetime, dry_run: bool = False) -> int:
    """Remove the folders that killed imports of this account left on this machine.

    Args:
        before: Folders that changed later stay: an import may have made one and not locked it yet.
        dry_run: Remove nothing, and tell what would be.

    Returns:
        How many. What cannot be removed is told in the log: trying again would not help.
    """
    found = 0
    for held in get_args(Held):
        for path in Path(tempfile.gettempdir()).glob(f"{_prefix(held)}*"):
            if (lock := _lock_left(path, before)) is None:
                continue
            try:
                if not dry_run:
                    shutil.rmtree(path)
                found += 1
            except OSError as error:
                log.warning("%s holds rows of people and cannot be removed: %s", path, error.strerror or error)
            finally:
                os.close(lock)
    return found


def _lock_left(path: Path, before: datetime) -> int | None:
    """Lock a folder that an import left; None where it is in use, young, or not ours: anybody may have named one so."""
    try:
        state = path.lstat()
        if not S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mtime >= before.timestamp():
            return None
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _prefix(held: Held) -> str:
    return f"journeys-{held}-"
