"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import create_messaging_tables, index_inbox_by_age

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_messaging_tables()
    index_inbox_by_age()
    op.create_table(
        "watched_payments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("hint_reference", sa.Text),
        sa.Column("announced", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("lookup", JSONB, nullable=False, server_default="{}"),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("cause_id", sa.Text, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("hinted_at", _TIME),
        sa.Column("asked", sa.Integer, nullable=False, server_default="0"),
        sa.Column("asked_at", _TIME),
        sa.Column("ask_at", _TIME),
        sa.Column("told", sa.Text, nullable=False, server_default="pending"),
        sa.Column("error", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("watched_payments_due", "watched_payments", ["provider", "endpoint", "ask_at"])
    hint = ["provider", "endpoint", "hint_reference"]
    op.create_index("watched_payments_hint", "watched_payments", hint)
    op.create_index("watched_payments_age", "watched_payments", ["updated_at"])
    op.create_table(
        "ask_budgets",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("tokens", sa.Float, nullable=False),
        sa.Column("filled_at", _TIME, nullable=False),
    )
