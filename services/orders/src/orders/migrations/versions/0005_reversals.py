"""Refunds and disputes at the provider."""

import sqlalchemy as sa
from alembic import op

from common.db.migrations import create_tenant_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_tenant_table(
        "reversals",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("checkout_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_index("reversals_order", "reversals", ["order_id"])
    op.create_index("reversals_checkout", "reversals", ["checkout_id"])
