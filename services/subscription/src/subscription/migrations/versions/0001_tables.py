"""The first tables."""

import sqlalchemy as sa
from alembic import op

from common.db.migrations import create_messaging_tables

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def _table(name: str, *columns: sa.Column) -> None:  # type: ignore[type-arg]
    op.create_table(
        name,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=sa.func.now()),
        *columns,
    )


def upgrade() -> None:
    create_messaging_tables()
    _table(
        "customers",
        sa.Column("provider_customer_id", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("email_at", _TIME),
        sa.Column("email_event_id", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("name_at", _TIME),
        sa.Column("name_event_id", sa.Text),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    )
    _table(
        "plans",
        sa.Column("provider_plan_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("interval", sa.Text),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("seen_event_id", sa.Text, nullable=False),
    )
    _table(
        "subscriptions",
        sa.Column("provider_subscription_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="incomplete"),
        sa.Column("plan_id", sa.Text),
        sa.Column("current_period_end", _TIME),
        sa.Column("cancel_at_period_end", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("ever_active", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("snapshot_at", _TIME),
        sa.Column("snapshot_event_id", sa.Text),
        sa.Column("snapshot_lifecycle", sa.Text),
        sa.Column("snapshot_status", sa.Text),
        sa.Column("payment_at", _TIME),
        sa.Column("payment_event_id", sa.Text),
        sa.Column("payment_paid", sa.Boolean),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    _table(
        "payments",
        sa.Column("provider_payment_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text),
        sa.Column("subscription_id", sa.Text),
        sa.Column("paid", sa.Boolean),
        sa.Column("reported_at", _TIME),
        sa.Column("reported_event_id", sa.Text),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("references", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
    )
    _table(
        "reversals",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("references", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("reported_at", _TIME, nullable=False),
    )
    for table in ("customers", "plans", "subscriptions", "payments"):
        op.create_index(f"{table}_page", table, ["tenant", "created_at", "id"])
    page = ["tenant", "status", "created_at", "id"]
    op.create_index("subscriptions_status", "subscriptions", page)
    op.create_index("subscriptions_customer", "subscriptions", ["tenant", "customer_id"])
    op.create_index("payments_subscription", "payments", ["tenant", "subscription_id"])
    op.create_index("reversals_references", "reversals", ["references"], postgresql_using="gin")
