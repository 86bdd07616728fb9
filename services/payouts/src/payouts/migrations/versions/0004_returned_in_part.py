"""What came back of a paid payout, where that is not all of it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    returned = sa.Column("amount_returned", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("payouts", returned)
