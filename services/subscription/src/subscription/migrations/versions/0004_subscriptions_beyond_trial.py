"""Subscriptions that were active so far were active beyond a trial."""

from common.db.migrations import change_rows

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    change_rows("""
        UPDATE subscriptions SET ever_beyond_trial = true WHERE id IN (
            SELECT id FROM subscriptions WHERE ever_active AND NOT ever_beyond_trial LIMIT :most
        )
    """)
