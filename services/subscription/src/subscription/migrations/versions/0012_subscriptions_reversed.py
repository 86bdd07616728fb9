"""The job `renewals` finds out whether these subscriptions are refunded or disputed."""

from common.db.migrations import change_rows

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    change_rows("""
        UPDATE subscriptions SET due_at = now() WHERE id IN (
            SELECT s.id FROM subscriptions s JOIN payments p ON p.subscription_id = s.id
            JOIN reversals r ON r.tenant = p.tenant AND r.provider = p.provider
            AND r."references" && p."references"
            WHERE s.due_at IS NULL LIMIT :most
        )
    """)
