"""What was warned of outlives a broken login, and older news than a sync's says nothing of it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("items", sa.Column("warning", sa.Text))
    op.add_column("items", sa.Column("warned_until", _TIME))
    op.add_column("items", sa.Column("read_at", _TIME))
