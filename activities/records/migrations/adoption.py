"""Taking over a ledger from before there were revisions, whatever it lacks of the newest tables."""

from __future__ import annotations

from collections.abc import Iterator

from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import Column, Connection, DefaultClause, Float, Integer, MetaData, text


def adopt(connection: Connection, wanted: MetaData) -> None:
    """Bring a ledger's tables to the wanted ones. Its rows stay, and so do tables that are not wanted.

    Args:
        connection: To the ledger, in a transaction that is open.
        wanted: The tables as they shall be.
    """
    context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
    found = produce_migrations(context, wanted)
    operations = Operations(context)
    for operation in complete(*found.upgrade_ops_list):
        if isinstance(operation, ops.ModifyTableOps):
            with operations.batch_alter_table(operation.table_name) as table:
                for part in operation.ops:
                    table.invoke(part)
        elif not isinstance(operation, ops.DropTableOp):
            operations.invoke(operation)
    # Whoever entered before there were revisions is in the version that admitted him.
    connection.execute(text("UPDATE passages SET entered_version = version WHERE entered_version = 0"))


def complete(*operations: ops.MigrateOperation) -> Iterator[ops.MigrateOperation]:
    """Make operations run on tables that are in use.

    A column that is never null is added with a default: for the rows that are there, and for workers of the version
    before, who do not know it.

    Yields:
        The operations, each for one table, without those that only hold others.
    """
    for operation in operations:
        if isinstance(operation, ops.UpgradeOps):
            yield from complete(*operation.ops)
            continue
        for part in operation.ops if isinstance(operation, ops.ModifyTableOps) else (operation,):
            if isinstance(part, ops.AddColumnOp):
                part.column = _with_default(part.column)
        yield operation


def _with_default(column: Column[object]) -> Column[object]:
    if column.nullable or column.server_default is not None:
        return column
    given = getattr(column.default, "arg", 0 if isinstance(column.type, Integer | Float) else "")
    copy = column._copy()
    copy.server_default = DefaultClause(str(given))
    return copy
