"""Revisions of the tables: `new` writes the one that is missing, `check` tells whether one is.

Example: `python -m scripts.migrations new "Count the visits"`
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pkgutil import walk_packages
from tempfile import TemporaryDirectory
from typing import Any

import click
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import ops
from sqlalchemy import Connection, create_engine

import activities
from activities.records import migrations
from activities.records.database import METADATA
from activities.records.migrations.adoption import complete


def load_tables() -> None:
    """Import every module of the activities: each may hold tables."""
    for module in walk_packages(activities.__path__, "activities."):
        if not module.name.startswith(migrations.__name__):
            import_module(module.name)


def differences(connection: Connection) -> list[Any]:
    """List what tells a database's tables from those that the modules declare, as alembic words it.

    Args:
        connection: To a database that was brought to the newest revision.

    Returns:
        One entry for each table, column or index that differs.
    """
    load_tables()
    return list(compare_metadata(MigrationContext.configure(connection), METADATA))


@contextmanager
def newest_database() -> Iterator[Connection]:
    """Give a connection to a throw-away SQLite database at the newest revision."""
    with TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/new.db")
        with engine.connect() as connection:
            if migrations.newest() != "0000":
                migrations.upgrade(connection)
            yield connection
        engine.dispose()


def _complete(_context: Any, _revision: Any, directives: list[ops.MigrationScript]) -> None:
    """Complete what alembic found, so that it runs on tables that are in use."""
    for script in directives:
        list(complete(*script.upgrade_ops_list))


@click.group()
def main() -> None:
    """Keep the revisions of the tables in step with the modules that declare them."""


@main.command()
def check() -> None:
    """Tell what the revisions do not make yet; ends with 1 when there is something."""
    with newest_database() as connection:
        found = differences(connection)
    for one in found:
        click.echo(one)
    sys.exit(1 if found else 0)


@main.command()
@click.argument("message")
def new(message: str) -> None:
    """Write the next revision, with all that is declared and not made yet. Read it before you commit it."""
    with newest_database() as connection:
        if not differences(connection):
            click.echo("the revisions make all that is declared: nothing to write")
            return
        number = f"{int(migrations.newest()) + 1:04}"
        command.revision(
            migrations.configuration(connection),
            message,
            autogenerate=True,
            rev_id=number,
            process_revision_directives=_complete,
        )
    written = [str(path) for path in (migrations.FOLDER / "versions").glob(f"{number}_*.py")]
    for work in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *work, *written], check=True)  # noqa: S603  a file of ours


if __name__ == "__main__":
    main()
