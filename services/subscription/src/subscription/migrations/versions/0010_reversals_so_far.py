"""What is known about the refunds and disputes so far."""

from alembic import op

revision = "0010"
down_revision = "0009"

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


def upgrade() -> None:
    # The status of a dispute is not known: only its beginning was reported.
    op.execute("UPDATE reversals SET total = amount, status_at = reported_at")
    op.execute(_SUBTRACT_FAILED)
    op.execute(_REASSESS_REVERSED)
