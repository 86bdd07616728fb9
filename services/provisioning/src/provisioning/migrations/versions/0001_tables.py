"""Organizations and what they derive from."""

import sqlalchemy as sa
from alembic import op

from common.db.migrations import (
    create_circuit_breakers,
    create_messaging_tables,
    create_tenant_table,
)

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    create_circuit_breakers()
    _create_integrations()
    _create_subscriptions()
    _create_attempts()


def _create_integrations() -> None:
    create_tenant_table(
        "integrations",
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("contact_sequence", sa.Integer, nullable=False, server_default="0"),
        sa.Column("desired_state", sa.Text, nullable=False, server_default="absent"),
        sa.Column("observed_state", sa.Text, nullable=False, server_default="absent"),
        sa.Column("status", sa.Text, nullable=False, server_default="not_needed"),
        sa.Column("organization_id", sa.Text),
        sa.Column("admin_created", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("error", sa.Text),
        sa.Column("failed_event_id", sa.Text),
        sa.Column("lease", sa.Text),
        sa.Column("lease_until", _TIME),
        sa.Column("outcome_unknown", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("late_calls", sa.Integer, nullable=False, server_default="0"),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("integrations_page", "integrations", ["tenant", "created_at", "id"])
    op.create_index("integrations_status", "integrations", ["tenant", "status", "created_at", "id"])


def _create_subscriptions() -> None:
    create_tenant_table(
        "subscriptions",
        sa.Column("integration_id", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("sequence", sa.Integer, nullable=False, server_default="-1"),
    )
    op.create_index("subscriptions_integration", "subscriptions", ["integration_id"])


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("integration_id", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("finished_at", _TIME),
        sa.Column("outcome", sa.Text),
        sa.Column("error", sa.Text),
    )
    op.create_index("attempts_integration", "attempts", ["integration_id", "id"])
    op.create_index("attempts_finished", "attempts", ["finished_at"])
