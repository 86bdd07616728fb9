"""Payments that are polled."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from common.db.migrations import create_messaging_tables, create_rate_limits, create_tenant_table

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    create_rate_limits()
    _create_pending_payments()
    _create_stripe_event_cursors()


def _create_pending_payments() -> None:
    create_tenant_table(
        "pending_payments",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("notification_reference", sa.Text),
        sa.Column("announced", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("lookup", JSONB, nullable=False, server_default="{}"),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("cause_id", sa.Text, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("notified_at", _TIME),
        sa.Column("poll_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_polled_at", _TIME),
        sa.Column("next_poll_at", _TIME),
        sa.Column("published_status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("charges", ARRAY(sa.Text), nullable=False, server_default="{}"),
        sa.Column("error", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index(
        "pending_payments_due",
        "pending_payments",
        ["provider", "endpoint", sa.text("announced DESC"), "next_poll_at"],
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index(
        "pending_payments_notification",
        "pending_payments",
        ["provider", "endpoint", "notification_reference"],
    )
    op.create_index("pending_payments_age", "pending_payments", ["updated_at"])


def _create_stripe_event_cursors() -> None:
    op.create_table(
        "stripe_event_cursors",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("read_to", _TIME, nullable=False),
        sa.Column("read_next_at", _TIME, nullable=False),
    )
