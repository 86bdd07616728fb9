"""What an entitlement policy asks about a subscription."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("trialing", "collection_paused", "refunded", "disputed", "ever_beyond_trial"):
        column = sa.Column(name, sa.Boolean, nullable=False, server_default="false")
        op.add_column("subscriptions", column)
