"""Subscriptions of our own can be cancelled; refunds know which request they honoured."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("cancel_when", sa.Text))
    op.add_column("subscriptions", sa.Column("cancel_wanted_at", sa.DateTime(timezone=True)))
    op.add_column("subscriptions", sa.Column("gave_up_at", sa.DateTime(timezone=True)))
    op.add_column("refunds", sa.Column("requests", sa.Integer, nullable=False, server_default="1"))
    op.execute("SET LOCAL statement_timeout = 0")  # of many checkouts it takes a while
    payer = sa.text("(request #>> '{customer,reference}')")
    op.create_index("checkouts_payer", "checkouts", ["tenant", payer])
