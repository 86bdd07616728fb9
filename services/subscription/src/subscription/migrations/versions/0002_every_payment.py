"""Payments that are not invoices; refunds that fail, disputes that progress; plans' intervals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "plans", sa.Column("interval_count", sa.Integer, nullable=False, server_default="1")
    )
    _extend_subscriptions()
    op.add_column("customers", sa.Column("deleted_at", _TIME))
    op.add_column("payments", sa.Column("checkout_id", sa.Text))
    op.create_index("payments_references", "payments", ["references"], postgresql_using="gin")
    _extend_reversals()


def _extend_subscriptions() -> None:
    flags = ("trialing", "collection_paused", "refunded", "disputed", "ever_beyond_trial")
    for name in flags:
        column = sa.Column(name, sa.Boolean, nullable=False, server_default="false")
        op.add_column("subscriptions", column)
    op.execute("UPDATE subscriptions SET ever_beyond_trial = true WHERE ever_active")
    op.drop_index("subscriptions_judged", "subscriptions")
    op.create_index(
        "subscriptions_judged",
        "subscriptions",
        ["tenant", "policy_version"],
        postgresql_where=sa.text(
            "status IN ('past_due', 'unpaid', 'paused') "
            "OR trialing OR collection_paused OR refunded OR disputed"
        ),
    )


def _extend_reversals() -> None:
    """`total` is what the provider reported; `amount`, which held it so far, is what applies."""
    for column in (
        sa.Column("total", sa.BigInteger),
        sa.Column("status", sa.Text),
        sa.Column("status_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    ):
        op.add_column("reversals", column)
    op.execute("UPDATE reversals SET total = amount, status_at = reported_at")
    op.execute("UPDATE reversals SET status = 'open' WHERE kind = 'dispute'")
    op.alter_column("reversals", "total", nullable=False)
    op.alter_column("reversals", "status_at", nullable=False)
