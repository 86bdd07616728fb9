"""The checkout that a payment was made in."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("payments", sa.Column("checkout_id", sa.Text))
