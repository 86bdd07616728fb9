"""Subscriptions that are unpaid or paused, what a tenant's customers may use then, and snapshots of
one second."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "entitlement_policies",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("policy", JSONB, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    op.add_column(
        "subscriptions", sa.Column("phase", sa.Text, nullable=False, server_default="unused")
    )
    op.add_column("subscriptions", sa.Column("cancel_at", _TIME))
    op.add_column(
        "subscriptions", sa.Column("snapshots", JSONB, nullable=False, server_default="[]")
    )
    op.add_column("subscriptions", sa.Column("turned_at", _TIME))
    op.add_column("subscriptions", sa.Column("turned_status", sa.Text))
    # None of these was judged by a policy.
    op.add_column(
        "subscriptions", sa.Column("policy_version", sa.Integer, nullable=False, server_default="0")
    )
    op.execute("SET LOCAL statement_timeout = 0")  # of many subscriptions it takes a while
    op.execute(
        """
        UPDATE subscriptions
           SET phase = CASE WHEN NOT ever_active THEN 'unused'
                            WHEN status IN ('active', 'incomplete') THEN 'active'
                            WHEN status = 'past_due' THEN 'past_due'
                            ELSE 'ended' END,
               policy_version = CASE WHEN status = 'past_due' THEN -1 ELSE 0 END,
               snapshots = CASE WHEN snapshot_at IS NULL THEN '[]'
                                ELSE jsonb_build_array(jsonb_build_object(
                                     'event_id', snapshot_event_id,
                                     'lifecycle', snapshot_lifecycle,
                                     'facts', jsonb_build_object(
                                         'status', snapshot_status,
                                         'plan_id', plan_id,
                                         'current_period_end', current_period_end,
                                         'cancel_at_period_end', cancel_at_period_end))) END
        """
    )
    op.create_index(
        "subscriptions_judged",
        "subscriptions",
        ["tenant", "policy_version"],
        postgresql_where=sa.text("status IN ('past_due', 'unpaid', 'paused')"),
    )
    for column in ("snapshot_event_id", "snapshot_lifecycle", "snapshot_status"):
        op.drop_column("subscriptions", column)
