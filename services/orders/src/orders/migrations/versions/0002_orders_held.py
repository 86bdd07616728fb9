"""What of an order is held back for refunds and disputes at the provider."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("orders", sa.Column("held", sa.BigInteger, nullable=False, server_default="0"))
