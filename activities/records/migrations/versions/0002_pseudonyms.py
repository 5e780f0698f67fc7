"""The pseudonyms that stand for users towards Temporal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring the tables from the revision before to this one."""
    op.create_table(
        "pseudonyms",
        sa.Column("pseudonym", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("pseudonym"),
    )
    with op.batch_alter_table("pseudonyms", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_pseudonyms_user_id"), ["user_id"], unique=False)
