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
    """`total` is what the provider reported; `amount`, which held it so far, is what applies. Both
    new columns stay nullable: the previous version continues to write rows beside this one."""
    for column in (
        sa.Column("total", sa.BigInteger),
        sa.Column("began_at", _TIME),
        sa.Column("status", sa.Text),
        sa.Column("status_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    ):
        op.add_column("reversals", column)
    # The status of a dispute is not known: only its beginning was reported.
    op.execute("UPDATE reversals SET total = amount, status_at = reported_at")
    op.execute(_SUBTRACT_FAILED)
    op.execute(_REASSESS_REVERSED)


# The time of the total that is known is not: a refund that failed is taken to be part of it.
_SUBTRACT_FAILED = """
    UPDATE reversals r SET amount = greatest(0, r.total - f.failed), status_at = f.failed_at
    FROM (
        SELECT t.id, sum(x.amount) AS failed, max(x.reported_at) AS failed_at
        FROM reversals t JOIN reversals x
        ON x.tenant = t.tenant AND x.provider = t.provider AND x.kind = 'refund_failed'
        AND x."references" && t."references"
        WHERE t.kind = 'refund' GROUP BY t.id
    ) f WHERE f.id = r.id
"""
# The job `renewals` then finds out whether they are refunded or disputed.
_REASSESS_REVERSED = """
    UPDATE subscriptions SET due_at = now() WHERE due_at IS NULL AND id IN (
        SELECT p.subscription_id FROM payments p JOIN reversals r
        ON r.tenant = p.tenant AND r.provider = p.provider AND r."references" && p."references"
    )
"""
