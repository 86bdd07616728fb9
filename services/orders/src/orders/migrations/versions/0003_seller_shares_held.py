"""What of a seller's share is held back."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    column = sa.Column("held", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("seller_shares", column)
    op.create_check_constraint(
        "seller_shares_held",
        "seller_shares",
        "held >= 0 AND refunded + held <= gross",
        postgresql_not_valid=True,  # the rows so far are checked by the next one
    )
