"""Payments by the ids that refunds and disputes name."""

from common.db.migrations import create_index

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    create_index("payments_references", "payments", ["references"], postgresql_using="gin")
