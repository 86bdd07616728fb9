"""A checkout may be paid by several charges; each is judged on its own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("payments", sa.Column("checkout_id", sa.Text))
    op.add_column("payments", sa.Column("charge", sa.Text))
    op.add_column("refunds", sa.Column("checkout_id", sa.Text))
    op.execute("UPDATE payments SET checkout_id = id")
    op.execute("UPDATE refunds SET checkout_id = payment_id")
