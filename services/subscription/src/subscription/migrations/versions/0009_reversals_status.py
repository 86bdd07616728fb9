"""Refunds that fail, and disputes that progress."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """`total` is what the provider reported; `amount`, which held it so far, is what applies. Both
    new columns stay nullable: the previous version continues to write rows beside this one."""
    for column in (
        sa.Column("total", sa.BigInteger),
        sa.Column("began_at", _TIME),
        sa.Column("status", sa.Text),
        sa.Column("status_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    ):
        op.add_column("reversals", column)
