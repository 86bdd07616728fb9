"""Refunds, what the workers' circuits do, and customers by their names."""

import sqlalchemy as sa
from alembic import op

from common.db.migrations import create_circuits_table

revision = "0005"
down_revision = "0004"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "refunds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("checkout_id", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("reports", sa.Integer, nullable=False, server_default="0"),
        sa.Column("provider_refund_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("refunds_checkout", "refunds", ["checkout_id"])
    create_circuits_table()
    op.create_index("customers_named", "customers", ["tenant", "provider_customer_id"])
