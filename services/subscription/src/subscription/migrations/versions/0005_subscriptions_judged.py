"""The subscriptions that a changed policy may change."""

import sqlalchemy as sa

from common.db.migrations import create_index

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_index(
        "subscriptions_judged",
        "subscriptions",
        ["tenant", "policy_version"],
        postgresql_where=sa.text(
            "status IN ('past_due', 'unpaid', 'paused') "
            "OR trialing OR collection_paused OR refunded OR disputed"
        ),
    )
