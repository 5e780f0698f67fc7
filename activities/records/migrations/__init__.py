"""The revisions of the tables, numbered from 0001, and bringing a database to the newest.

They go forward only. A revision adds what earlier programs need not know, so workers of two versions may run at once.
`python -m scripts.migrations new "why"` writes the next one. Alembic is loaded only when there is something to do.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, create_engine, inspect, text
from sqlalchemy.exc import OperationalError, ProgrammingError

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).parent
VERSION_TABLE = "alembic_version"


@cache
def newest() -> str:
    """Give the newest revision that this program knows, such as `0003`: the last of the files' numbers."""
    return max((file.name.partition("_")[0] for file in (FOLDER / "versions").glob("[0-9]*_*.py")), default="0000")


def revision(connection: Connection) -> str | None:
    """Give the revision of a database's tables; None where none is written down."""
    try:
        found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    except (OperationalError, ProgrammingError):  # there is no such table: SQLite and PostgreSQL say it differently
        return None
    return found


def configuration(connection: Connection) -> Config:
    """Give alembic's configuration for a connection whose transaction the caller ends."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, to: str = "head") -> None:
    """Bring a database to a revision, within a transaction that is open and in which nobody else writes.

    A ledger without a revision, as programs left it before there were any, keeps its rows.
    """
    from alembic import command

    config = configuration(connection)
    present = inspect(connection)
    if present.has_table("passages") and not present.has_table(VERSION_TABLE):
        from activities.records.migrations.adoption import adopt

        adopt(connection, _made_by_revisions())
        command.stamp(config, "head")
    command.upgrade(config, to)


def _made_by_revisions() -> MetaData:
    """Give the tables as all revisions make them."""
    made = MetaData()
    engine = create_engine("sqlite://")
    with engine.begin() as scratch:
        upgrade(scratch)
        made.reflect(scratch)
    engine.dispose()
    made.remove(made.tables[VERSION_TABLE])
    return made
