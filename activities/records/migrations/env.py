"""What alembic runs for each of its commands: on the connection it is given, in that connection's transaction."""

from __future__ import annotations

from alembic import context

from activities.records.database import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite changes a column by making the table anew
    transactional_ddl=True,  # SQLite's too, since it is we who begin transactions, and not its driver
)
context.run_migrations()
