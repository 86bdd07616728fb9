"""What failed of the refunds so far. The time of the known total is unknown: a failed refund is
taken to be part of it."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        UPDATE reversals r SET amount = greatest(0, r.total - f.failed), status_at = f.failed_at
        FROM (
            SELECT t.id, sum(x.amount) AS failed, max(x.reported_at) AS failed_at
            FROM reversals t JOIN reversals x
            ON x.tenant = t.tenant AND x.provider = t.provider AND x.kind = 'refund_failed'
            AND x."references" && t."references"
            WHERE t.kind = 'refund' GROUP BY t.id
        ) f WHERE f.id = r.id
    """)
