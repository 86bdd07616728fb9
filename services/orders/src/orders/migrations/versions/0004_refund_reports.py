"""Which report of a refund was the newest: one that succeeded may fail later."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column(
        "refunds", sa.Column("reports", sa.BigInteger, nullable=False, server_default="0")
    )
