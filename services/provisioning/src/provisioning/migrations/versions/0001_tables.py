"""The first tables."""

import sqlalchemy as sa
from alembic import op

from common.db.migrations import create_messaging_tables

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_messaging_tables()
    now = sa.func.now()
    op.create_table(
        "integrations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=now),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("contact_sequence", sa.Integer, nullable=False, server_default="0"),
        sa.Column("wanted", sa.Text, nullable=False, server_default="absent"),
        sa.Column("actual", sa.Text, nullable=False, server_default="absent"),
        sa.Column("status", sa.Text, nullable=False, server_default="not_needed"),
        sa.Column("organization_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("failed_event_id", sa.Text),
        sa.Column("lease", sa.Text),
        sa.Column("lease_until", _TIME),
        sa.Column("outcome_unknown", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=now),
    )
    op.create_index("integrations_page", "integrations", ["tenant", "created_at", "id"])
    page = ["tenant", "status", "created_at", "id"]
    op.create_index("integrations_status", "integrations", page)
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=now),
        sa.Column("integration_id", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("sequence", sa.Integer, nullable=False, server_default="-1"),
    )
    op.create_index("subscriptions_integration", "subscriptions", ["integration_id"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("integration_id", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False, server_default=now),
        sa.Column("finished_at", _TIME),
        sa.Column("outcome", sa.Text),
        sa.Column("error", sa.Text),
    )
    op.create_index("attempts_integration", "attempts", ["integration_id", "id"])
    op.create_index("attempts_finished", "attempts", ["finished_at"])
