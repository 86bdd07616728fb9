"""What was reported about refunds and disputes so far. The status of a dispute is not known: only
its beginning was reported."""

from common.db.migrations import change_rows

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    change_rows("""
        UPDATE reversals SET total = amount, status_at = reported_at WHERE id IN (
            SELECT id FROM reversals WHERE total IS NULL LIMIT :most
        )
    """)
