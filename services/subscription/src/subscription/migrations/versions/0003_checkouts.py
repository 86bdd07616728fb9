"""Checkouts, and subscriptions whose clock is ours."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "checkouts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("customer_id", sa.Text),
        sa.Column("subscription_id", sa.Text),
        sa.Column("reference", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("expires_at", _TIME),
        sa.Column("error", sa.Text),
        sa.Column("paid_at", _TIME),
        sa.Column("reported_at", _TIME),
        sa.Column("reported_event_id", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("checkouts_page", "checkouts", ["tenant", "created_at", "id"])
    op.create_index("checkouts_reference", "checkouts", ["reference"])
    op.create_index("checkouts_subscription", "checkouts", ["subscription_id"])
    op.add_column("subscriptions", sa.Column("due_at", _TIME))
    op.add_column("subscriptions", sa.Column("reminded_of", _TIME))
    op.create_index(
        "subscriptions_due",
        "subscriptions",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
