"""Which charges of a payment were told, where there can be several."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column(
        "watched_payments",
        sa.Column("charges", ARRAY(sa.Text), nullable=False, server_default="{}"),
    )
