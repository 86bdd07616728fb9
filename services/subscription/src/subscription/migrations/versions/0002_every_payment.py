"""Payments that are not invoices; refunds that fail, disputes that progress; plans' intervals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "plans", sa.Column("interval_count", sa.Integer, nullable=False, server_default="1")
    )
    op.add_column("customers", sa.Column("deleted_at", _TIME))
    op.add_column("payments", sa.Column("checkout_id", sa.Text))
    op.create_index("payments_references", "payments", ["references"], postgresql_using="gin")
    _extend_reversals()


def _extend_reversals() -> None:
    """`total` is what the provider reported; `amount`, which held it so far, is what applies."""
    for column in (
        sa.Column("total", sa.BigInteger),
        sa.Column("status", sa.Text),
        sa.Column("status_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    ):
        op.add_column("reversals", column)
    op.execute("UPDATE reversals SET total = amount, status_at = reported_at")
    op.execute("UPDATE reversals SET status = 'open' WHERE kind = 'dispute'")
    op.alter_column("reversals", "total", nullable=False)
    op.alter_column("reversals", "status_at", nullable=False)
